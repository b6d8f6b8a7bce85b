package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// schema names the format of a report. Within a version names are only added.
const schema = "dfs.bench/v1"

// report is what one run found.
type report struct {
	Schema  string    `json:"schema"`
	Folder  string    `json:"folder"`
	Started time.Time `json:"started"`
	Kernel  string    `json:"kernel"`
	CPUs    int       `json:"cpus"`
	Quick   bool      `json:"quick"`
	Results []result  `json:"results"`
}

// result is one workload.
type result struct {
	Name    string  `json:"name"`
	Unit    string  `json:"unit"`
	Value   float64 `json:"value"`
	Better  string  `json:"better"` // more or less
	Work    float64 `json:"work"`   // how many units were done
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

func newReport(folder string, o options) *report {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	return &report{
		Schema: schema, Folder: folder, Started: time.Now().UTC(), Kernel: unix.ByteSliceToString(uts.Release[:]),
		CPUs: runtime.NumCPU(), Quick: o.quick, Results: []result{},
	}
}

// add notes what a step did, when it is to be reported, and answers the value.
func (r *report) add(s step, work float64, took time.Duration, wanted bool) float64 {
	res := result{Name: s.name, Unit: s.unit, Better: "more", Work: work, Seconds: took.Seconds()}
	if s.unit == "s" {
		res.Better, res.Value = "less", took.Seconds()
	} else {
		res.Value = work / max(took.Seconds(), 1e-9)
	}
	if wanted {
		r.Results = append(r.Results, res)
	}
	return res.Value
}

func (r *report) fail(s step, err error) {
	r.Results = append(r.Results, result{Name: s.name, Unit: s.unit, Better: "more", Error: err.Error()})
}

func (r *report) failure() error {
	var errs []error
	for _, res := range r.Results {
		if res.Error != "" {
			errs = append(errs, fmt.Errorf("%s: %s", res.Name, res.Error))
		}
	}
	return errors.Join(errs...)
}

func (r *report) print(w io.Writer) {
	for _, res := range r.Results {
		if res.Error == "" {
			fmt.Fprintf(w, "%-20s %10s %s\n", res.Name, number(res.Value), unitText(res.Unit))
		}
	}
}

func (r *report) save(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

func load(file string) (*report, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if r.Schema != schema {
		return nil, fmt.Errorf("%s: schema %q, want %q", file, r.Schema, schema)
	}
	return &r, nil
}

func unitText(unit string) string {
	if unit == "s" {
		return "s"
	}
	return unit + "/s"
}

// number prints three significant digits, and large numbers whole.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
