package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Many files, by one caller and by eight at once. Each caller has a folder of its
// own, as the processes of mdtest -u.
func fileGroups() []group {
	var all []group
	for _, callers := range []int{1, 8} {
		name := func(s string) string { return fmt.Sprintf("%s-%d", s, callers) }
		meta := group{name: name("meta"), start: makeSet(callers, 2000, 400), steps: []step{
			{name: name("create"), unit: "file", doing: each(create)},
			{name: name("stat-cold"), unit: "file", cold: true, doing: each(stat)},
			{name: name("stat-warm"), unit: "file", doing: each(stat)},
		}}
		if callers == 1 {
			meta.steps = append(meta.steps, step{name: "ls-l", unit: "file", cold: true, doing: list})
		}
		meta.steps = append(meta.steps,
			step{name: name("rename"), unit: "file", doing: each(rename)},
			step{name: name("unlink"), unit: "file", doing: each(unlinkRenamed)},
		)
		small := group{name: name("small"), start: makeSet(callers, 1000, 200), steps: []step{
			{name: name("small-create"), unit: "file", doing: each(createSmall)},
			{name: name("small-read-cold"), unit: "file", cold: true, doing: each(readSmall)},
		}}
		durable := group{name: name("durable"), start: makeSet(callers, 500, 100), steps: []step{
			{name: name("small-fsync"), unit: "file", doing: each(createDurable)},
		}}
		all = append(all, meta, small, durable)
	}
	return all
}

// set is the files of a group: the same number in a folder for each caller.
type set struct {
	callers, files int
}

func (s set) dir(b *bench, caller int) string { return b.path(fmt.Sprintf("c%d", caller)) }

// makeSet makes the folders. Eight callers do twice as much as one, so that all
// are at work for a while.
func makeSet(callers, full, quick int) func(context.Context, *bench) (any, error) {
	return func(_ context.Context, b *bench) (any, error) {
		s := set{callers: callers, files: b.size(full, quick)}
		if callers > 1 {
			s.files = s.files * 2 / callers
		}
		for c := range callers {
			if err := os.Mkdir(s.dir(b, c), 0o755); err != nil {
				return nil, err
			}
		}
		return s, nil
	}
}

// each has every caller do one thing to each of its files.
func each(do func(path string) error) func(context.Context, *bench, any) (float64, error) {
	return func(ctx context.Context, b *bench, shared any) (float64, error) {
		s := shared.(set)
		errs := make([]error, s.callers)
		var wg sync.WaitGroup
		for c := range s.callers {
			wg.Go(func() {
				dir := s.dir(b, c)
				for i := range s.files {
					if errs[c] = do(filepath.Join(dir, fmt.Sprintf("file-%06d", i))); errs[c] != nil {
						return
					}
					if errs[c] = ctx.Err(); errs[c] != nil {
						return
					}
				}
			})
		}
		wg.Wait()
		return float64(s.callers * s.files), errors.Join(errs...)
	}
}

func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func stat(path string) error {
	_, err := os.Lstat(path)
	return err
}

func rename(path string) error { return os.Rename(path, path+".new") }

func unlinkRenamed(path string) error { return unix.Unlink(path + ".new") }

// contents is what each small file holds.
var contents = func() []byte {
	buf := make([]byte, page)
	fill(buf, newRand(), 0)
	return buf
}()

func createSmall(path string) error { return writeSmall(path, false) }

func createDurable(path string) error { return writeSmall(path, true) }

func writeSmall(path string, durable bool) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(contents); err != nil {
		return err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}

func readSmall(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var buf [page + 1]byte
	n, err := io.ReadFull(f, buf[:])
	if !errors.Is(err, io.ErrUnexpectedEOF) || n != page {
		return fmt.Errorf("%s: read %d bytes, want %d: %w", path, n, page, err)
	}
	return checkPages(buf[:page], 0)
}

// list is ls -l of the folder of the only caller.
func list(ctx context.Context, b *bench, shared any) (float64, error) {
	s := shared.(set)
	var lines lineCounter
	cmd := exec.CommandContext(ctx, "ls", "-l", s.dir(b, 0))
	cmd.Stdout, cmd.Stderr = &lines, os.Stderr
	if err := cmd.Run(); err != nil {
		return 0, err
	}
	if int(lines) != s.files+1 { // the first line is the total
		return 0, fmt.Errorf("ls -l printed %d lines for %d files", int(lines), s.files)
	}
	return float64(s.files), nil
}

// lineCounter counts what is written to it.
type lineCounter int

func (c *lineCounter) Write(p []byte) (int, error) {
	for _, ch := range p {
		if ch == '\n' {
			*c++
		}
	}
	return len(p), nil
}

func fdatasync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
