package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A source tree, as developers use it: a part of the Go distribution.
func treeGroups() []group {
	return []group{
		{name: "tree", start: packTree, steps: []step{
			{name: "untar", unit: "file", doing: untar},
			{name: "tar-cold", unit: "file", cold: true, doing: tarBack},
			{name: "rm-rf", unit: "file", doing: removeTree},
		}},
		{name: "git", start: makeRepository, steps: []step{
			{name: "git-clone", unit: "s", doing: gitClone},
			{name: "git-status-cold", unit: "s", cold: true, doing: gitStatus},
			{name: "git-status-warm", unit: "s", doing: gitStatus},
		}},
	}
}

// tree is a source tree packed in a file on the local disk.
type tree struct {
	tar   string
	files int
	bytes int64
}

// parts are the folders of GOROOT/src that make the tree: about 2,000 files, in
// the quick size 500.
func (b *bench) parts() []string {
	if b.quick {
		return []string{"net"}
	}
	return []string{"cmd/compile", "cmd/go/internal", "net", "crypto", "runtime"}
}

func packTree(ctx context.Context, b *bench) (any, error) {
	root, err := output(ctx, "", "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	t := tree{tar: filepath.Join(b.scratch, "tree.tar")}
	file, err := os.Create(t.tar)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	w := tar.NewWriter(file)
	for _, part := range b.parts() {
		if err := t.pack(w, filepath.Join(strings.TrimSpace(root), "src"), part); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return t, file.Close()
}

// pack adds the folder part below root.
func (t *tree) pack(w *tar.Writer, root, part string) error {
	return fs.WalkDir(os.DirFS(root), part, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: "tree/" + name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		t.files++
		t.bytes += int64(len(data))
		_, err = w.Write(data)
		return err
	})
}

func untar(ctx context.Context, b *bench, shared any) (float64, error) {
	t := shared.(tree)
	return float64(t.files), command(ctx, b.dir, nil, "tar", "-xf", t.tar)
}

// tarBack packs the tree again. The archive goes through a pipe: tar reads no
// file when it sees that it writes to /dev/null.
func tarBack(ctx context.Context, b *bench, shared any) (float64, error) {
	t := shared.(tree)
	var n byteCounter
	if err := command(ctx, b.dir, &n, "tar", "-cf", "-", "tree"); err != nil {
		return 0, err
	}
	if int64(n) < t.bytes {
		return 0, fmt.Errorf("tar packed %d bytes of a tree of %d", int64(n), t.bytes)
	}
	return float64(t.files), nil
}

func removeTree(ctx context.Context, b *bench, shared any) (float64, error) {
	return float64(shared.(tree).files), command(ctx, b.dir, nil, "rm", "-rf", "tree")
}

// makeRepository makes a repository of the tree on the local disk.
func makeRepository(ctx context.Context, b *bench) (any, error) {
	packed, err := packTree(ctx, b)
	if err != nil {
		return nil, err
	}
	t := packed.(tree)
	repo := filepath.Join(b.scratch, "repository")
	if err := os.Mkdir(repo, 0o755); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"tar", "-xf", t.tar, "--strip-components=1"},
		{"git", "init", "-q"},
		{"git", "add", "-A", "-f"},
		{"git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-q", "-m", "tree"},
	} {
		if err := command(ctx, repo, nil, args[0], args[1:]...); err != nil {
			return nil, err
		}
	}
	return repo, nil
}

func gitClone(ctx context.Context, b *bench, shared any) (float64, error) {
	return 1, command(ctx, b.dir, nil, "git", "clone", "-q", "file://"+shared.(string), "clone")
}

func gitStatus(ctx context.Context, b *bench, _ any) (float64, error) {
	changes, err := output(ctx, b.path("clone"), "git", "status", "--porcelain")
	if err == nil && changes != "" {
		err = fmt.Errorf("a fresh clone has changes: %s", changes)
	}
	return 1, err
}

// command runs a program in a folder; what it says on stderr is the error.
func command(ctx context.Context, dir string, stdout io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, stdout, &stderr
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return err
		}
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	var out bytes.Buffer
	err := command(ctx, dir, &out, name, args...)
	return out.String(), err
}

// byteCounter counts what is written to it.
type byteCounter int64

func (c *byteCounter) Write(p []byte) (int, error) {
	*c += byteCounter(len(p))
	return len(p), nil
}
