package server

import (
	"testing"

	"dfs/proto/chunkpb"
)

func TestLaterBackupsComeLaterInOrderOfName(t *testing.T) {
	last := ""
	for _, b := range []*chunkpb.BackupInfo{
		{Cluster: 1 << 63, Term: 2, Index: 900, MadeUnix: 9}, {Cluster: 1 << 63, Term: 2, Index: 1000, MadeUnix: 1}, {Cluster: 1 << 63, Term: 10, Index: 1, MadeUnix: 5},
	} {
		name := backupName(b)
		if name <= last {
			t.Errorf("%s is not after %s", name, last)
		}
		last = name
		got, ok := parseBackupName(name)
		if !ok || got.Cluster != b.Cluster || got.Term != b.Term || got.Index != b.Index || got.MadeUnix != b.MadeUnix || got.Name != name {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, name := range []string{"", "..", "../x.backup", last + ".part", "0-0-0-0.backup", last[1:], "/" + last} {
		if _, ok := parseBackupName(name); ok {
			t.Errorf("%q was taken for a name", name)
		}
	}
}
