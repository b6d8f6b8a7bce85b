package disk_test

import (
	"bytes"
	"errors"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"dfs/internal/disk"
	"dfs/internal/disk/disktest"
)

func TestOS(t *testing.T) {
	disktest.Run(t, func(t *testing.T) (disk.FS, string) { return disk.OS(), t.TempDir() })
}

func TestMem(t *testing.T) {
	disktest.Run(t, func(t *testing.T) (disk.FS, string) { return disk.NewMem(), "/" })
}

func TestWatch(t *testing.T) {
	disktest.Run(t, func(t *testing.T) (disk.FS, string) { return disk.NewWatch(disk.NewMem()), "/" })
}

func create(t *testing.T, m *disk.Mem, name string, data []byte) disk.File {
	t.Helper()
	f, err := m.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f, data, 0)
	return f
}

func write(t *testing.T, f disk.File, data []byte, off int64) {
	t.Helper()
	if _, err := f.WriteAt(data, off); err != nil {
		t.Fatal(err)
	}
}

func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// What was synced is there after every crash; what was not is found whole, lost and
// torn, each in some.
func TestCrashKeepsWhatWasSynced(t *testing.T) {
	m := disk.NewMem()
	f := create(t, m, "a", bytes.Repeat([]byte("o"), 8192))
	if err := errors.Join(f.Sync(), m.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	write(t, f, bytes.Repeat([]byte("n"), 4096), 4096)
	create(t, m, "b", nil)
	seen := map[string]bool{}
	for seed := range uint64(200) {
		c := m.Crash(rng(seed))
		got, err := disk.ReadFile(c, "a", 1<<20)
		if err != nil || len(got) != 8192 || bytes.Count(got[:4096], []byte("o")) != 4096 {
			t.Fatalf("seed %d: synced bytes are lost: %v", seed, err)
		}
		switch bytes.Count(got[4096:], []byte("n")) {
		case 0:
			seen["lost"] = true
		case 4096:
			seen["whole"] = true
		default:
			seen["torn"] = true
		}
		_, err = c.Stat("b")
		seen["name"] = seen["name"] || err == nil
		seen["no name"] = seen["no name"] || err != nil
	}
	for _, s := range []string{"lost", "whole", "torn", "name", "no name"} {
		if !seen[s] {
			t.Errorf("no crash in 200 had: %s", s)
		}
	}
	if got, err := disk.ReadFile(m, "a", 1<<20); err != nil || bytes.Count(got, []byte("n")) != 4096 {
		t.Fatalf("the crash changed the disk that goes on: %v", err)
	}
}

func TestMkdirSyncLasts(t *testing.T) {
	m := disk.NewMem()
	if err := disk.MkdirSync(m, "a/b/c"); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(20) {
		if info, err := m.Crash(rng(seed)).Stat("a/b/c"); err != nil || !info.Dir {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestCrashRenameIsOneStep(t *testing.T) {
	m := disk.NewMem()
	if err := disk.WriteFile(m, "d", []byte("old")); err != nil {
		t.Fatal(err)
	}
	f := create(t, m, "d.tmp", []byte("new"))
	if err := errors.Join(f.Sync(), m.SyncDir("/"), m.Rename("d.tmp", "d")); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(50) {
		c := m.Crash(rng(seed))
		got, err := disk.ReadFile(c, "d", 10)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Stat("d.tmp")
		if string(got) == "new" != (err != nil) {
			t.Fatalf("seed %d: the target is %q, the source: %v", seed, got, err)
		}
	}
}

func TestCrashWithoutChanceForgetsAll(t *testing.T) {
	m := disk.NewMem()
	if err := disk.WriteFile(m, "a", []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Link("a", "b"), m.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	f, err := m.OpenFile("b", os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f, []byte("new"), 0)
	if err := errors.Join(m.Remove("a"), m.Link("b", "c")); err != nil {
		t.Fatal(err)
	}
	if err := m.Link("b", "c"); !errors.Is(err, iofs.ErrExist) {
		t.Fatalf("link over a name: %v", err)
	}
	c := m.Crash(nil)
	for name, want := range map[string]string{"a": "old", "b": "old", "c": ""} {
		if got, _ := disk.ReadFile(c, name, 10); string(got) != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if _, free, err := c.Usage("/"); err != nil || free != 1<<40-3 {
		t.Errorf("%d bytes free, %v: a file with two names counts once", free, err)
	}
}

func TestFailedSyncIsNeverMadeGood(t *testing.T) {
	m := disk.NewMem()
	f := create(t, m, "a", nil)
	if err := errors.Join(f.Sync(), m.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	disktest.Fail(t, m, "sync a times=1")
	lost := false
	for i := range 20 {
		write(t, f, bytes.Repeat([]byte("x"), 512), int64(i)*512)
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	if err := f.Sync(); err != nil {
		t.Fatalf("second sync: %v", err)
	}
	got, err := disk.ReadFile(m.Crash(rng(1)), "a", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	lost = bytes.Count(got, []byte("x")) < 20*512
	if !lost {
		t.Fatal("all bytes of a failed sync were saved")
	}
}

func TestRules(t *testing.T) {
	m := disk.NewMem()
	f := create(t, m, "dir.log", nil)
	disktest.Fail(t, m, "write *.log err=ENOSPC after=2 times=1")
	for i, want := range []error{nil, nil, syscall.ENOSPC, nil} {
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, want) {
			t.Fatalf("write %d: %v, want %v", i, err, want)
		}
	}
	remove := disktest.Fail(t, m, "any * delay=20ms")
	start := time.Now()
	if err := f.Sync(); err != nil || time.Since(start) < 20*time.Millisecond {
		t.Fatalf("sync took %v: %v", time.Since(start), err)
	}
	remove()
	for _, bad := range []string{"", "sync", "fly *", "sync [", "sync * err=EWHAT", "sync * after=x", "sync * soon"} {
		if _, err := disk.ParseRule(bad); err == nil {
			t.Errorf("rule %q was taken", bad)
		}
	}
}

func TestCapacity(t *testing.T) {
	m := disk.NewMem()
	m.SetCapacity(10000)
	f := create(t, m, "a", make([]byte, 6000))
	if err := f.Allocate(0, 9000); err != nil {
		t.Fatal(err)
	}
	if err := f.Allocate(0, 10001); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("allocate: %v", err)
	}
	g := create(t, m, "b", make([]byte, 1000))
	if _, err := g.WriteAt([]byte("x"), 1000); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write: %v", err)
	}
	if err := m.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if _, free, err := m.Usage("/"); err != nil || free != 9000 {
		t.Fatalf("%d bytes free: %v", free, err)
	}
	if _, err := g.WriteAt([]byte("x"), 1000); err != nil {
		t.Fatal(err)
	}
}

// Who is killed leaves what he wrote, and what he had not synced can still be lost.
func TestKillLeavesWhatWasWritten(t *testing.T) {
	m := disk.NewMem()
	if err := disk.MkdirSync(m, "/d"); err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteFile(m, "/d/synced", []byte("synced")); err != nil {
		t.Fatal(err)
	}
	f, err := m.Create("/d/written")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("written"), 0); err != nil {
		t.Fatal(err)
	}
	next := m.Kill()
	if _, err := f.WriteAt([]byte("afterwards"), 0); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove("/d/synced"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"/d/synced": "synced", "/d/written": "written"} {
		if b, err := disk.ReadFile(next, name, 100); err != nil || string(b) != want {
			t.Errorf("%s after a kill: %q, %v", name, b, err)
		}
	}
	lost := 0
	for seed := range uint64(40) {
		c := next.Crash(rand.New(rand.NewPCG(seed, 1)))
		if b, err := disk.ReadFile(c, "/d/synced", 100); err != nil || string(b) != "synced" {
			t.Fatalf("synced after a crash: %q, %v", b, err)
		}
		if b, err := disk.ReadFile(c, "/d/written", 100); err != nil || string(b) != "written" {
			lost++
		}
	}
	if lost == 0 {
		t.Error("40 crashes lost nothing of what was not synced")
	}
}
