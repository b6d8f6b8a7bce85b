package main

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestEveryHealthCodeIsExplained compares the codes that the masters give with
// those that this command explains.
func TestEveryHealthCodeIsExplained(t *testing.T) {
	source, err := os.ReadFile("../../meta/server/status.go")
	if err != nil {
		t.Fatal(err)
	}
	var given, known []string
	for _, m := range regexp.MustCompile(`say\("([A-Z_]+)"`).FindAllStringSubmatch(string(source), -1) {
		given = append(given, m[1])
	}
	for _, c := range healthCodes {
		known = append(known, c.code)
	}
	slices.Sort(given)
	slices.Sort(known)
	if given = slices.Compact(given); !slices.Equal(given, known) {
		t.Fatalf("the masters give %v, explained are %v", given, known)
	}
}
