package dfs

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSettingsAreInOrderAndTheirDefaultsValid(t *testing.T) {
	if !slices.IsSortedFunc(Settings, func(a, b Setting) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("not in order")
	}
	for _, s := range Settings {
		if _, err := s.Parse(s.Default); s.Default != "" && err != nil {
			t.Error(err)
		}
		if len(s.Name) > SettingNameMax || s.Text == "" {
			t.Errorf("%+v", s)
		}
	}
}

func TestSettingIsParsedWithinItsBounds(t *testing.T) {
	m := &ClusterMap{Settings: map[string]string{"repair-after": "90s", "repair-rate": "2 MiB", "backup-keep": "5", "scrub-every": "1", "scrub-rate": "9999999TiB",
		"keep-unknown-until": "1970-01-01T00:00:07Z", "backup-every": "10ms"}}
	for name, want := range map[string]int64{
		"repair-after": int64(90 * time.Second), "repair-rate": 2 << 20, "backup-keep": 5, "keep-unknown-until": 7,
		"scrub-every": -1, "scrub-rate": -1, "backup-every": -1, "no such": -1,
	} {
		if got := m.Setting(name, -1); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
	if got := (*ClusterMap)(nil).Setting("repair-after", 3); got != 3 {
		t.Error(got)
	}
}
