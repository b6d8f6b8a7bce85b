package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMedianOfEvenNumberIsTheMeanOfTheMiddle(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func TestTableShowsHowManyTimesAsFastTheFirstIs(t *testing.T) {
	report := func(create, clone float64) *report {
		return &report{Results: []result{
			{Name: "create-1", Unit: "file", Value: create, Better: "more"},
			{Name: "git-clone", Unit: "s", Value: clone, Better: "less"},
		}}
	}
	systems := addRound(nil, "dfs", report(900, 2))
	systems = addRound(systems, "dfs", report(1100, 2))
	systems = addRound(systems, "peer", report(500, 3))
	systems = addRound(systems, "broken", &allFailed)
	var out strings.Builder
	if err := printTable(&out, systems); err != nil {
		t.Fatal(err)
	}
	want := `| workload | unit | dfs | peer | broken | dfs : peer | dfs : broken | noise |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| create-1 | file/s | 1000 | 500 | failed | 2.00 |  | ±10% |
| git-clone | s | 2.00 | 3.00 | failed | 1.50 |  | ±0% |
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

var allFailed = report{Results: []result{{Name: "create-1", Unit: "file", Error: "EIO"}}}

func TestRunReportsWhatIsSelectedAndLeavesNothing(t *testing.T) {
	folder := t.TempDir()
	selected, err := selection([]string{"rename-1", "sync"})
	if err != nil {
		t.Fatal(err)
	}
	// rename-1 needs the cold steps before it, which need root.
	if os.Geteuid() != 0 {
		delete(selected, "rename-1")
	}
	r, err := run(t.Context(), folder, selected, options{quick: true, progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.failure(); err != nil {
		t.Fatal(err)
	}
	if len(r.Results) != len(selected) {
		t.Errorf("results %+v for the selection %v", r.Results, selected)
	}
	for _, res := range r.Results {
		if !selected[res.Name] || res.Value <= 0 {
			t.Errorf("result %+v", res)
		}
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	file := filepath.Join(t.TempDir(), "out.json")
	if err := r.save(file); err != nil {
		t.Fatal(err)
	}
	if again, err := load(file); err != nil || len(again.Results) != len(r.Results) {
		t.Errorf("load: %v, %v", again, err)
	}
}

func TestUnknownWorkloadIsRefused(t *testing.T) {
	if _, err := selection([]string{"nonsense"}); err == nil {
		t.Error("no error")
	}
}
