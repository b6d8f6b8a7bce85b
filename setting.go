package dfs

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// SettingKind is what the value of a setting means.
type SettingKind uint8

// Kinds of settings, and how their values are written.
const (
	SettingDuration SettingKind = iota // 10m, 36h
	SettingBytes                       // 64MiB
	SettingNumber                      // 3
	SettingTime                        // 2026-01-31T12:00:00Z
)

func (k SettingKind) String() string {
	return [...]string{"duration", "bytes", "number", "time"}[k]
}

// Setting is one that holds for the whole cluster. As long as it is not set, daemons go by
// their own flags, or by Default.
type Setting struct {
	Name     string
	Kind     SettingKind
	Default  string
	Min, Max int64 // nanoseconds, bytes, a number; both 0: any
	Text     string
}

// Bounds of settings as the masters keep them.
const (
	SettingNameMax  = 64  // bytes
	SettingValueMax = 256 // bytes
)

// Settings lists what can be set, in order of name.
var Settings = []Setting{
	{"backup-every", SettingDuration, "1h", int64(time.Second), int64(30 * 24 * time.Hour), "the metadata is copied to chunk servers so often"},
	{"backup-keep", SettingNumber, "3", 1, 100, "so many of these copies are kept on a chunk server"},
	{"keep-unknown-until", SettingTime, "", 0, 0, "until then no chunk is deleted from servers (set by dfs meta restore)"},
	{"repair-after", SettingDuration, "10m", int64(time.Second), int64(365 * 24 * time.Hour), "a server that is down for so long is replaced by others (--repair-after of the masters)"},
	{"repair-rate", SettingBytes, "128MiB", 64 << 10, 1 << 40, "bytes a second that a server restores at most (--repair-rate of dfs-chunk)"},
	{"scrub-every", SettingDuration, "168h", int64(time.Minute), int64(365 * 24 * time.Hour), "all data is read and checked so often (--scrub-every of dfs-chunk)"},
	{"scrub-rate", SettingBytes, "32MiB", 64 << 10, 1 << 40, "bytes a second that a server checks at most (--scrub-rate of dfs-chunk)"},
}

// FindSetting finds a setting by its name; nil when there is none.
func FindSetting(name string) *Setting {
	for i := range Settings {
		if Settings[i].Name == name {
			return &Settings[i]
		}
	}
	return nil
}

// Parse reads a value: nanoseconds, bytes, a number, or seconds since 1970.
func (s *Setting) Parse(value string) (int64, error) {
	var n int64
	var err error
	switch s.Kind {
	case SettingDuration:
		var d time.Duration
		d, err = time.ParseDuration(value)
		n = int64(d)
	case SettingBytes:
		n, err = parseBytes(value)
	case SettingNumber:
		n, err = strconv.ParseInt(value, 10, 64)
	case SettingTime:
		var t time.Time
		t, err = time.Parse(time.RFC3339, value)
		n = t.Unix()
	}
	if err != nil {
		return 0, fmt.Errorf("%s=%q is no %v", s.Name, value, s.Kind)
	}
	if (s.Min != 0 || s.Max != 0) && (n < s.Min || n > s.Max) {
		return 0, fmt.Errorf("%s=%s: from %s to %s", s.Name, value, s.format(s.Min), s.format(s.Max))
	}
	return n, nil
}

func (s *Setting) format(n int64) string {
	switch s.Kind {
	case SettingDuration:
		return time.Duration(n).String()
	case SettingBytes:
		if n%(1<<20) == 0 {
			return strconv.FormatInt(n>>20, 10) + "MiB"
		}
	}
	return strconv.FormatInt(n, 10)
}

func parseBytes(value string) (int64, error) {
	shift := 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if text, ok := strings.CutSuffix(value, unit); ok {
			value, shift = strings.TrimSpace(text), 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err == nil && (n < 0 || n > 1<<62>>shift) {
		err = strconv.ErrRange
	}
	return n << shift, err
}

// Setting is the value of a setting that the cluster has, else otherwise. A value of a
// later version that this one cannot read counts as not set.
func (m *ClusterMap) Setting(name string, otherwise int64) int64 {
	if m == nil || m.Settings[name] == "" {
		return otherwise
	}
	if s := FindSetting(name); s != nil {
		if n, err := s.Parse(m.Settings[name]); err == nil {
			return n
		}
	}
	return otherwise
}
