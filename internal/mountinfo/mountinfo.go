// Package mountinfo reads the kernel's table of mounts, proc_pid_mountinfo(5).
package mountinfo

import (
	"bufio"
	"os"
	"strings"
)

// Mount is one line of the table.
type Mount struct {
	Device string // MAJOR:MINOR
	Point  string // the folder
	Type   string
	Source string
}

// Read lists the mounts that this process sees. Of several at one folder the last lies on
// top.
func Read() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []Mount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if m, ok := Parse(lines.Text()); ok {
			all = append(all, m)
		}
	}
	return all, lines.Err()
}

// Parse reads one line: ID PARENT DEVICE ROOT FOLDER OPTIONS [FIELD...] - TYPE SOURCE OPTIONS.
func Parse(line string) (m Mount, ok bool) {
	left, right, ok := strings.Cut(line, " - ")
	if !ok {
		return Mount{}, false
	}
	fields, tail := strings.Fields(left), strings.Fields(right)
	if len(fields) < 5 || len(tail) < 2 {
		return Mount{}, false
	}
	return Mount{fields[2], unescape(fields[4]), tail[0], unescape(tail[1])}, true
}

// At finds the mount at a folder; nil when there is none.
func At(folder string) (*Mount, error) {
	all, err := Read()
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Point == folder {
			return &all[i], nil
		}
	}
	return nil, err
}

// unescape undoes the octal escapes of white space.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
