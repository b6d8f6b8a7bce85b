package server

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"dfs"
	"dfs/meta"
	"dfs/meta/store"
)

// unpack makes a folder of an archive, and answers where it is.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, h.Name)
		if h.FileInfo().IsDir() {
			err = os.MkdirAll(name, 0o700)
		} else {
			var b []byte
			if b, err = io.ReadAll(in); err == nil {
				err = os.WriteFile(name, b, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestStateOfLevel1IsReadAndRaised: a master's folder as the first version left it when it
// was killed, some of it in the rows and the rest in the log alone.
func TestStateOfLevel1IsReadAndRaised(t *testing.T) {
	s := startMaster(t, func(c *Config) { c.Dir, c.Bootstrap = filepath.Join(unpack(t, "testdata/level1.tar.gz"), "m"), false })
	if got := s.node.Level(); got != 1 {
		t.Errorf("level %d", got)
	}
	leads(t, s)
	err := s.read(t.Context(), func(v meta.View) error {
		for path, mode := range map[string]uint32{
			"/dir": dfs.TypeDir | 0o755, "/dir/file0": dfs.TypeFile | 0o644, "/dir/file7": dfs.TypeFile | 0o644, "/moved": dfs.TypeFile | 0o644,
			"/late": dfs.TypeFile | 0o600, "/link": dfs.TypeLink | 0o777,
		} {
			if a, err := v.Resolve(dfs.Cred{Checked: true}, path); err != nil || a.Mode != mode && path != "/link" {
				t.Errorf("%s: mode %o, want %o, %v", path, a.Mode, mode, err)
			}
		}
		for _, path := range []string{"/dir/file8", "/dir/file9"} {
			if _, err := v.Resolve(dfs.Cred{Checked: true}, path); !errors.Is(err, dfs.ENOENT) {
				t.Errorf("%s: %v", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the level to rise", func() error {
		if got := s.node.Level(); got != meta.Level {
			return fmt.Errorf("it is %d", got)
		}
		return nil
	})
	if err := s.node.FrozenRows(func(r meta.Reader, _ store.Position) error {
		for _, p := range meta.Check(r) {
			t.Error(p)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
