package tidy

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLinksInDocumentsLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, name := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text(t, name), -1) {
			target, _, _ := strings.Cut(m[1], "#")
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			if !exists(path.Join(path.Dir(name), target)) {
				t.Errorf("%s links to %s, which is not there", name, m[1])
			}
		}
	}
}

// A document that names a file of ours, such as `meta/rename.go`, must be changed
// with it.
func TestFilesInDocumentsExist(t *testing.T) {
	quoted := regexp.MustCompile("`([a-z][a-z0-9_-]*(?:/[A-Za-z0-9_.-]+)+\\.(?:go|proto|md|txt|mod))`")
	for _, name := range documents(t) {
		if strings.HasPrefix(name, "docs/adr/") {
			continue // they tell of their time
		}
		for _, m := range quoted.FindAllStringSubmatch(text(t, name), -1) {
			if !exists(m[1]) {
				t.Errorf("%s names %s, which is not there", name, m[1])
			}
		}
	}
}

// A test that a document calls a proof must be there.
func TestTestsInDocumentsExist(t *testing.T) {
	tests := map[string]bool{}
	each(t, func(s *source) {
		if s.test {
			for name := range s.ast.Scope.Objects { //nolint:staticcheck // names at the top are all that is asked
				tests[name] = true
			}
		}
	})
	named := regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w+`)
	for _, name := range documents(t) {
		for _, test := range named.FindAllString(text(t, name), -1) {
			if !tests[test] {
				t.Errorf("%s names %s, and there is no such test", name, test)
			}
		}
	}
}

func documents(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(slices.Clone(allFiles(t)), func(name string) bool { return !strings.HasSuffix(name, ".md") })
}

func exists(name string) bool {
	_, err := os.Stat(filepath.Join(root, name))
	return err == nil
}

// What only the machine of whoever wrote it has does not belong here.
func TestNoPathsOfOneMachine(t *testing.T) {
	local := regexp.MustCompile(`(^|[^\w.$})])/(wo` + `rk|ro` + `ot|ho` + `me/[a-z]+)/`)
	for _, name := range allFiles(t) {
		data := text(t, name)
		if !utf8.ValidString(data) {
			continue
		}
		for i, line := range strings.Split(data, "\n") {
			if m := local.FindString(line); m != "" {
				t.Errorf("%s:%d: %q is a path of one machine", name, i+1, strings.TrimSpace(m))
			}
		}
	}
}

const fileBytesMax = 1 << 20 // larger files are not source

func TestNoLargeFiles(t *testing.T) {
	for _, name := range allFiles(t) {
		info, err := os.Stat(filepath.Join(root, name))
		if err == nil && info.Size() > fileBytesMax {
			t.Errorf("%s has %d bytes, at most %d", name, info.Size(), fileBytesMax)
		}
	}
}

func TestScriptsStopAtTheFirstError(t *testing.T) {
	found := 0
	for _, name := range allFiles(t) {
		data := text(t, name)
		if !strings.HasPrefix(data, "#!") {
			continue
		}
		found++
		if !strings.HasPrefix(data, "#!/usr/bin/env bash\n") || !strings.Contains(data, "\nset -euo pipefail\n") {
			t.Errorf("%s: want #!/usr/bin/env bash and set -euo pipefail", name)
		}
		if strings.HasPrefix(name, "scripts/") && !strings.Contains(data, "--help") {
			t.Errorf("%s has no --help", name)
		}
		if info, err := os.Stat(filepath.Join(root, name)); err == nil && info.Mode()&0o111 == 0 {
			t.Errorf("%s is not executable", name)
		}
	}
	if found == 0 {
		t.Error("found no scripts")
	}
}
