package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// table is what people read: the columns after narrow are shown by -o wide only,
// the first column is what -o name prints.
type table struct {
	columns []string
	narrow  int
	rows    [][]string
}

// emit prints value in the format that was asked for; text prints it for people.
func (g *global) emit(cmd *cobra.Command, value any, t table, text func(io.Writer)) error {
	out := cmd.OutOrStdout()
	switch g.output {
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(value)
	case "yaml":
		return emitYAML(out, value)
	case "name":
		for _, row := range t.rows {
			fmt.Fprintln(out, row[0])
		}
		return nil
	}
	if text != nil {
		text(out)
		return nil
	}
	t.print(out, g.output == "wide")
	return nil
}

// emitYAML goes through JSON, so that both have the same names.
func emitYAML(out io.Writer, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(raw, &node); err != nil {
		return err
	}
	plain(&node)
	enc := yaml.NewEncoder(out)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return err
	}
	return enc.Close()
}

// plain drops the flow and quoting style that JSON text has.
func plain(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
	for _, c := range n.Content {
		plain(c)
	}
}

func (t table) print(out io.Writer, wide bool) {
	n := len(t.columns)
	if !wide && t.narrow > 0 {
		n = t.narrow
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(t.columns[:n], "\t"))
	for _, row := range t.rows {
		fmt.Fprintln(w, strings.Join(row[:n], "\t"))
	}
	_ = w.Flush() // out is a terminal or a pipe: its loss shows as SIGPIPE
}

// bytesText is a size for people, in binary units.
func bytesText(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1024, 0
	for v >= 1023.95 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[u])
}

// count is "1 thing" or "2 things".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
