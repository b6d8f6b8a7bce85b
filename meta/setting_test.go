package meta

import (
	"maps"
	"strings"
	"testing"

	"dfs"
)

func TestSettingsArePartOfTheMap(t *testing.T) {
	b := newBench(t)
	look := func() *dfs.ClusterMap {
		m, err := NewView(b.table).Map()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	before := look()
	for _, op := range []*SetConfig{{"repair-after", "1m"}, {"of a later version", "x"}, {"repair-after", "2m"}, {"gone", "1"}, {"gone", ""}} {
		if rep := b.own(op); rep.Errno != dfs.OK {
			t.Fatal(rep.Errno)
		}
	}
	after := look()
	if want := map[string]string{"repair-after": "2m", "of a later version": "x"}; !maps.Equal(after.Settings, want) {
		t.Errorf("settings %v, want %v", after.Settings, want)
	}
	if after.Epoch != before.Epoch+5 {
		t.Errorf("epoch %d, was %d", after.Epoch, before.Epoch)
	}
	for _, op := range []*SetConfig{{"", "1"}, {"x", strings.Repeat("v", dfs.SettingValueMax+1)}, {strings.Repeat("n", dfs.SettingNameMax+1), "1"}} {
		if rep, err := Apply(b.table, Command{Op: op}); err != nil || rep.Errno != dfs.EINVAL {
			t.Errorf("%.10q: %v, %v", op.Name, rep.Errno, err)
		}
	}
}
