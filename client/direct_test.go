package client_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dfs"
	"dfs/rpc"
)

// handOut has the servers hand out their fragment files, with a byte changed in each page
// of a payload if they are to be bad. It returns how to stop that.
func (c *cluster) handOut(bad func(*chunkServer) bool) (stop func()) {
	c.t.Helper()
	var files []*rpc.FileServer
	stop = func() {
		for _, f := range files {
			_ = f.Close() // a second time is an error
		}
	}
	c.t.Cleanup(stop)
	for _, s := range c.chunks {
		var f *rpc.FileServer
		eventually(c.t, 20*time.Second, func() (ok bool) { // another run of this test may have the name
			var err error
			f, err = rpc.ServeFiles(rpc.FragmentFiles(testCluster, s.id), func(key []byte) (*os.File, error) {
				return s.copyOut(c.t.TempDir(), key, bad(s))
			})
			return err == nil
		})
		files = append(files, f)
	}
	return stop
}

// copyOut copies a fragment file from the disk in memory.
func (s *chunkServer) copyOut(dir string, key []byte, bad bool) (*os.File, error) {
	id, fragment, err := rpc.ParseFragmentKey(key)
	if err != nil {
		return nil, err
	}
	path, err := s.store.Path(id, fragment)
	if err != nil {
		return nil, err
	}
	in, err := s.disk.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	b, err := io.ReadAll(io.NewSectionReader(in, 0, dfs.ChunkBytes))
	if err != nil {
		return nil, err
	}
	for at := dfs.FirstRecord + 2*dfs.PageBytes + 100; bad && at < len(b); at += dfs.PageBytes {
		b[at] ^= 0x10
	}
	name := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return nil, err
	}
	return os.Open(name)
}

func (c *cluster) serverReads() (n int64) {
	for _, s := range c.chunks {
		n += s.reads.Load()
	}
	return n
}

func TestReadsFilesOfServersOnThisMachine(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	data := random(10<<20+123, 1)
	f := create(t, c.dial(), "x")
	writeAt(t, f, data, 0)
	if err := f.Fsync(bg, false); err != nil {
		t.Fatal(err)
	}
	f.Release()
	read := func() (direct, asked int64) {
		before, fs := c.serverReads(), c.dial()
		check(t, must[[]byte](t)(fs.ReadFile(bg, root, "/x")), data)
		return int64(fs.Stats().Direct), c.serverReads() - before
	}
	if direct, asked := read(); direct != 0 || asked == 0 {
		t.Errorf("nobody hands out files: %d reads of files, %d through servers", direct, asked)
	}
	var bad *chunkServer
	stop := c.handOut(func(s *chunkServer) bool { return s == bad })
	if direct, asked := read(); direct == 0 || asked != 0 {
		t.Errorf("all hand out their files: %d reads of files, %d through servers", direct, asked)
	}
	// What is wrong in a file is the server's to say; a record of it is read from there,
	// or from another server.
	for _, bad = range c.chunks {
		if direct, _ := read(); direct == 0 {
			t.Error("one file is bad: none is read")
		}
	}
	stop()
	if direct, asked := read(); direct != 0 || asked == 0 {
		t.Errorf("nobody hands out files any more: %d reads of files, %d through servers", direct, asked)
	}
}

func TestHandedOutFilesOfStrangersAreRefused(t *testing.T) {
	s, err := rpc.ServeFiles("dfs/test/refused", func([]byte) (*os.File, error) { return nil, errors.New("not here") })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rpc.ServeFiles("dfs/test/refused", nil); err == nil {
		t.Error("two hand out files under one name")
	}
	if f, err := rpc.OpenFile(t.Context(), "dfs/test/refused", []byte("key")); err == nil || err.Error() != "refused: not here" {
		t.Errorf("%v, %v", f, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	begin := time.Now()
	if _, err := rpc.OpenFile(t.Context(), "dfs/test/refused", nil); err == nil || time.Since(begin) > time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}
