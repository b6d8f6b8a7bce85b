package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// system is the rounds of one file system.
type system struct {
	name   string
	rounds []*report
}

func addRound(systems []system, name string, r *report) []system {
	for i := range systems {
		if systems[i].name == name {
			systems[i].rounds = append(systems[i].rounds, r)
			return systems
		}
	}
	return append(systems, system{name: name, rounds: []*report{r}})
}

// values are what the rounds found for a workload; those that failed are left out.
func (s system) values(name string) (values []float64, one result) {
	for _, r := range s.rounds {
		for _, res := range r.Results {
			if res.Name == name && res.Error == "" {
				values, one = append(values, res.Value), res
			}
		}
	}
	return values, one
}

// workloads are the names in the order of the reports.
func workloads(systems []system) []string {
	var names []string
	for _, s := range systems {
		for _, r := range s.rounds {
			for _, res := range r.Results {
				if !slices.Contains(names, res.Name) {
					names = append(names, res.Name)
				}
			}
		}
	}
	return names
}

// printTable writes the medians and how many times as fast the first system is.
// The last column is the noise: half the distance of the best round from the worst,
// of the noisiest system.
func printTable(w io.Writer, systems []system) error {
	head := []string{"workload", "unit"}
	for _, s := range systems {
		head = append(head, s.name)
	}
	for _, s := range systems[1:] {
		head = append(head, systems[0].name+" : "+s.name)
	}
	head = append(head, "noise")
	if err := row(w, head); err != nil {
		return err
	}
	if err := row(w, append([]string{"---", "---"}, slices.Repeat([]string{"---:"}, len(head)-2)...)); err != nil {
		return err
	}
	for _, name := range workloads(systems) {
		if err := row(w, line(systems, name)); err != nil {
			return err
		}
	}
	return nil
}

func line(systems []system, name string) []string {
	var unit string
	var noise float64
	medians := make([]float64, len(systems))
	cells := []string{name, ""}
	less := false
	for i, s := range systems {
		values, one := s.values(name)
		if len(values) == 0 {
			cells = append(cells, "failed")
			continue
		}
		unit, less = unitText(one.Unit), one.Better == "less"
		medians[i] = median(values)
		noise = max(noise, (slices.Max(values)-slices.Min(values))/2/medians[i])
		cells = append(cells, number(medians[i]))
	}
	cells[1] = unit
	for _, m := range medians[1:] {
		switch {
		case m == 0 || medians[0] == 0:
			cells = append(cells, "")
		case less:
			cells = append(cells, fmt.Sprintf("%.2f", m/medians[0]))
		default:
			cells = append(cells, fmt.Sprintf("%.2f", medians[0]/m))
		}
	}
	if len(systems[0].rounds) == 1 {
		return append(cells, "one round")
	}
	return append(cells, fmt.Sprintf("±%.0f%%", 100*noise))
}

// median of a list that is not empty; of an even number, the mean of the middle two.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func row(w io.Writer, cells []string) error {
	_, err := fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	return err
}
