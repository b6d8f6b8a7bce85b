package cli

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// ParseSize reads a number of bytes with a unit: 10GiB, 10G, 512MiB, 4096. Empty is
// zero.
func ParseSize(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	text := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s), "B"), "I")
	shift := 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte("KMGT", text[n-1]); i >= 0 {
			shift, text = 10*(i+1), text[:n-1]
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil || n > math.MaxInt64>>shift {
		return 0, errors.New("want a number of bytes such as 512MiB or 10GiB")
	}
	return n << shift, nil
}
