package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func mkdir(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
}

// random is n bytes that a seed determines.
func random(n int, seed uint64) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	p := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(p)
	return p
}

func goroot(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(command(t, "", "go", "env", "GOROOT"))
}

// sourceTree is the part of the Go distribution that the tests copy: all of it
// takes a small machine too long for each change.
func sourceTree(t *testing.T) string {
	src := filepath.Join(goroot(t), "src")
	if *full {
		return src
	}
	return filepath.Join(src, "cmd", "compile")
}

// compareTrees compares names, types, modes, link targets and every byte.
func compareTrees(t *testing.T, want, got string) {
	t.Helper()
	type entry struct {
		mode fs.FileMode
		sum  [sha256.Size]byte
		size int64
	}
	scan := func(root string) map[string]entry {
		all := map[string]entry{}
		must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(root, path)
			info, err := d.Info()
			if err != nil {
				return err
			}
			e := entry{mode: info.Mode()}
			switch {
			case info.Mode().IsRegular():
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				e.sum, e.size = sha256.Sum256(data), info.Size()
			case info.Mode()&fs.ModeSymlink != 0:
				target, err := os.Readlink(path)
				if err != nil {
					return err
				}
				e.sum = sha256.Sum256([]byte(target))
			}
			all[rel] = e
			return nil
		}))
		return all
	}
	a, b := scan(want), scan(got)
	for rel, e := range a {
		if f, ok := b[rel]; !ok {
			t.Fatalf("%s is missing", rel)
		} else if rel != "." && e != f {
			t.Fatalf("%s: %v, %d bytes; want %v, %d bytes, or their bytes differ", rel, f.mode, f.size, e.mode, e.size)
		}
	}
	if len(a) != len(b) {
		t.Fatalf("%d entries, want %d", len(b), len(a))
	}
	t.Logf("%d entries are the same", len(a))
}

func dropCaches(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
}

func TestUntarRemountAndCompareEveryByte(t *testing.T) {
	tool(t, "tar", "tar")
	c := shared.get(t)
	m := c.mount(t)
	dir := filepath.Join(m.dir, "untar")
	mkdir(t, dir)
	src := sourceTree(t)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	must(t, w.AddFS(os.DirFS(src)))
	must(t, w.Close())
	cmd := exec.Command("tar", "-x", "-p", "--no-same-owner", "-C", dir)
	cmd.Stdin = &archive
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	dropCaches(t)
	must(t, m.umount(stopTimeout))
	must(t, m.start())
	compareTrees(t, src, dir)
	// Another mount, which has never seen it, sees the same.
	compareTrees(t, src, filepath.Join(c.mount(t).dir, "untar"))
	// And back: what tar packs from the mount is what it unpacked.
	out := t.TempDir()
	command(t, dir, "tar", "-c", "-f", filepath.Join(out, "back.tar"), ".")
	mkdir(t, filepath.Join(out, "tree"))
	command(t, out, "tar", "-x", "-C", "tree", "-f", "back.tar")
	compareTrees(t, src, filepath.Join(out, "tree"))
	must(t, os.RemoveAll(dir))
}

func TestGitCloneFsckStatus(t *testing.T) {
	tool(t, "git", "git")
	// A repository of its own, so that the test does not need this one's history.
	src := filepath.Join(t.TempDir(), "src")
	mkdir(t, src)
	git := func(dir string, args ...string) string {
		t.Helper()
		args = append([]string{"-c", "user.name=e2e", "-c", "user.email=e2e@example.org", "-c", "init.defaultBranch=main", "-c", "safe.directory=*"}, args...)
		return command(t, dir, "git", args...)
	}
	tree := "net"
	if *full {
		tree = "cmd"
	}
	must(t, os.CopyFS(filepath.Join(src, "tree"), os.DirFS(filepath.Join(goroot(t), "src", tree))))
	git(src, "init", "-q")
	git(src, "add", "-A")
	git(src, "commit", "-q", "-m", "first")
	for i := range 5 {
		must(t, os.WriteFile(filepath.Join(src, fmt.Sprintf("file-%d", i)), random(50000, uint64(i)), 0o644))
		git(src, "add", "-A")
		git(src, "commit", "-q", "-m", fmt.Sprint("change ", i))
	}
	dir := folder(t)
	clone := filepath.Join(dir, "clone")
	git(dir, "clone", "-q", "--no-hardlinks", src, clone)
	git(clone, "fsck", "--full", "--strict")
	if out := git(clone, "status", "--porcelain"); out != "" {
		t.Errorf("git status of a fresh clone: %s", out)
	}
	compareTrees(t, filepath.Join(src, "tree"), filepath.Join(clone, "tree"))
	must(t, os.WriteFile(filepath.Join(clone, "file-0"), []byte("changed"), 0o644))
	if out := git(clone, "status", "--porcelain"); out != " M file-0\n" {
		t.Errorf("git status after a change: %q", out)
	}
	git(clone, "checkout", "-q", "-b", "branch", "HEAD~3")
	git(clone, "commit", "-q", "-a", "-m", "change", "--allow-empty")
	git(clone, "gc", "-q")
	git(clone, "fsck", "--full", "--strict")
	git(clone, "checkout", "-q", "main")
}

func TestGoBuildOfDfsItself(t *testing.T) {
	dir := folder(t)
	must(t, os.CopyFS(dir, goFiles{os.DirFS(repository())}))
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "bin")+"/", "./cmd/...")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out := command(t, dir, filepath.Join(dir, "bin", "dfs"), "version")
	if strings.TrimSpace(out) == "" {
		t.Error("the dfs that was built says nothing")
	}
}

// goFiles is the repository without what a build does not need.
type goFiles struct{ fs.FS }

func (g goFiles) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(g.FS, name)
	var kept []fs.DirEntry
	for _, e := range entries {
		switch n := e.Name(); {
		case strings.HasPrefix(n, "."), n == "bin", e.Type()&^fs.ModeDir != 0:
		case e.IsDir(), strings.HasSuffix(n, ".go"), n == "go.mod", n == "go.sum":
			kept = append(kept, e)
		}
	}
	return kept, err
}

func TestRsyncTwiceCopiesNothing(t *testing.T) {
	tool(t, "rsync", "rsync")
	dir := folder(t)
	src := filepath.Join(goroot(t), "src", "net") + "/"
	command(t, dir, "rsync", "-a", src, "copy/")
	compareTrees(t, src, filepath.Join(dir, "copy"))
	if out := command(t, dir, "rsync", "-a", "--itemize-changes", src, "copy/"); strings.TrimSpace(out) != "" {
		t.Errorf("the second rsync changes:\n%s", out)
	}
	if out := command(t, dir, "rsync", "-a", "--checksum", "--itemize-changes", src, "copy/"); strings.TrimSpace(out) != "" {
		t.Errorf("rsync by checksum changes:\n%s", out)
	}
	// And from the mount to the local disk.
	out := filepath.Join(t.TempDir(), "back")
	command(t, dir, "rsync", "-a", "copy/", out+"/")
	compareTrees(t, src, out)
}

func TestSQLiteInBothJournalModes(t *testing.T) {
	tool(t, "sqlite3", "sqlite3")
	dir := folder(t)
	for _, mode := range []string{"delete", "wal"} {
		t.Run(mode, func(t *testing.T) {
			db := filepath.Join(dir, mode+".db")
			var script strings.Builder
			fmt.Fprintf(&script, "PRAGMA journal_mode=%s;\nPRAGMA synchronous=FULL;\nCREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);\n", mode)
			for i := range 100 {
				fmt.Fprintf(&script, "BEGIN; INSERT INTO t (body) VALUES (randomblob(%d)); UPDATE t SET body=randomblob(200) WHERE id=%d; COMMIT;\n", 100+i*37, 1+i/2)
			}
			script.WriteString("DELETE FROM t WHERE id%7=0; VACUUM;\n")
			cmd := exec.Command("sqlite3", "-bail", db)
			cmd.Stdin = strings.NewReader(script.String())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("sqlite3: %v\n%s", err, out)
			}
			if out := command(t, dir, "sqlite3", db, "PRAGMA integrity_check; SELECT count(*) FROM t;"); out != "ok\n86\n" {
				t.Errorf("integrity check: %q", out)
			}
		})
	}
}

func TestSQLiteWritersTakeTurns(t *testing.T) {
	dir := folder(t)
	sqliteTurns(t, dir, dir, "delete")
	mkdir(t, filepath.Join(dir, "wal"))
	sqliteTurns(t, filepath.Join(dir, "wal"), filepath.Join(dir, "wal"), "wal")
}

func TestSQLiteWritersOfTwoMountsTakeTurns(t *testing.T) {
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t)
	for _, mode := range []string{"delete", "wal"} {
		mkdir(t, filepath.Join(a.dir, "turns", mode))
		sqliteTurns(t, filepath.Join(a.dir, "turns", mode), filepath.Join(b.dir, "turns", mode), mode)
	}
}

// TestWALIsForOneMountAtATime: its index is shared memory, which mounts do not share. While
// one mount uses the database, it is busy on the others.
func TestWALIsForOneMountAtATime(t *testing.T) {
	tool(t, "sqlite3", "sqlite3")
	c := shared.get(t)
	a, b := c.mount(t), c.mount(t)
	mkdir(t, filepath.Join(a.dir, "wal"))
	here, there := filepath.Join(a.dir, "wal", "db"), filepath.Join(b.dir, "wal", "db")
	command(t, "/", "sqlite3", here, "PRAGMA journal_mode=wal; CREATE TABLE t (n INTEGER);")
	cmd := exec.Command("sqlite3", "-batch", "-bail", here)
	in, err := cmd.StdinPipe()
	must(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	insert := func() {
		t.Helper()
		_, err = fmt.Fprintln(in, "INSERT INTO t VALUES (1); SELECT 'inserted';")
		must(t, err)
		if !lines.Scan() || lines.Text() != "inserted" {
			t.Fatalf("insert: %q %v", lines.Text(), lines.Err())
		}
	}
	insert()
	if text, err := exec.Command("sqlite3", there, "SELECT count(*) FROM t").CombinedOutput(); err == nil || !strings.Contains(string(text), "lock") {
		t.Errorf("on the other mount: %v, %q; want that the database is locked", err, text)
	}
	insert()
	if text := command(t, "/", "sqlite3", here, "SELECT count(*) FROM t"); text != "2\n" {
		t.Errorf("another program on the same mount counts %q", text)
	}
	must(t, in.Close())
	must(t, cmd.Wait())
	for _, db := range []string{there, here} {
		if text := command(t, "/", "sqlite3", db, "INSERT INTO t VALUES (1); SELECT count(*) FROM t; PRAGMA integrity_check"); text != map[string]string{there: "3\nok\n", here: "4\nok\n"}[db] {
			t.Errorf("then, in %s: %q", db, text)
		}
	}
}

// sqliteTurns has processes write to one database, by two paths.
func sqliteTurns(t *testing.T, here, there, mode string) {
	tool(t, "sqlite3", "sqlite3")
	db := filepath.Join(here, "db")
	command(t, here, "sqlite3", db, "PRAGMA journal_mode="+mode+"; CREATE TABLE t (n INTEGER);")
	const writers, each = 4, 15
	errs := make(chan error, writers)
	for w := range writers {
		db := filepath.Join([]string{here, there}[w%2], "db")
		go func() {
			var script strings.Builder
			script.WriteString(".timeout 60000\n")
			for i := range each {
				fmt.Fprintf(&script, "INSERT INTO t VALUES (%d);\n", w*each+i)
			}
			cmd := exec.Command("sqlite3", "-bail", db)
			cmd.Stdin = strings.NewReader(script.String())
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			errs <- err
		}()
	}
	for range writers {
		must(t, <-errs)
	}
	for _, dir := range []string{here, there} {
		if out := command(t, dir, "sqlite3", filepath.Join(dir, "db"), "SELECT count(DISTINCT n), sum(n) FROM t; PRAGMA integrity_check;"); out != "60|1770\nok\n" {
			t.Errorf("got %q", out)
		}
	}
}

func TestFioVerify(t *testing.T) {
	tool(t, "fio", "fio")
	dir := folder(t)
	size := "48m"
	if *full {
		size = "1g"
	}
	for _, job := range [][]string{
		{"--rw=write", "--bs=1m"},
		{"--rw=randwrite", "--bs=4k", "--io_size=16m", "--fsync=64"},
		{"--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=1", "--io_size=32m"},
		{"--rw=randwrite", "--bs=16k", "--direct=1", "--io_size=16m"},
		{"--rw=randwrite", "--bs=4k", "--io_size=8m", "--ioengine=mmap"},
	} {
		args := append([]string{"--name=verify", "--directory=" + dir, "--size=" + size, "--ioengine=psync", "--verify=crc32c", "--do_verify=1",
			"--verify_fatal=1", "--fallocate=none", "--output-format=terse"}, job...)
		command(t, dir, "fio", args...)
		must(t, os.RemoveAll(filepath.Join(dir, "verify.0.0")))
	}
}

// TestManySubfoldersAndManyLinks goes beyond what a local file system can: ext4 has 65,000
// of each, and its st_nlink of a folder does not tell more.
func TestManySubfoldersAndManyLinks(t *testing.T) {
	folders, links := 3_000, 5_000
	if *full {
		folders, links = 70_000, 100_000
	}
	dir := folder(t)
	sub := filepath.Join(dir, "sub")
	mkdir(t, sub)
	for i := range folders {
		must(t, os.Mkdir(filepath.Join(sub, fmt.Sprint(i)), 0o755))
	}
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("one of many"), 0o644))
	names := filepath.Join(dir, "names")
	mkdir(t, names)
	for i := 1; i < links; i++ {
		must(t, os.Link(file, filepath.Join(names, fmt.Sprint(i))))
	}
	dropCaches(t)
	if out, want := command(t, dir, "stat", "-c", "%h", "sub", "file"), fmt.Sprintf("%d\n%d\n", folders+2, links); out != want {
		t.Errorf("stat says %q, want %q", out, want)
	}
	if got, err := os.ReadFile(filepath.Join(names, fmt.Sprint(links-1))); err != nil || string(got) != "one of many" {
		t.Errorf("by the last name: %q, %v", got, err)
	}
	command(t, dir, "rm", "-rf", "sub", "names")
	if out := command(t, dir, "stat", "-c", "%h", "file"); out != "1\n" {
		t.Errorf("after all other names were removed: %q links", out)
	}
}

func TestHugeFolderStreams(t *testing.T) {
	n := 10_000
	if *full {
		n = 1_000_000
	}
	dir := folder(t)
	const workers = 8
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			for i := w; i < n; i += workers {
				f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("entry-%07d", i)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
				if err != nil {
					errs <- err
					return
				}
				f.Close()
			}
			errs <- nil
		}()
	}
	for range workers {
		must(t, <-errs)
	}
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	seen := make(map[string]bool, n)
	for {
		names, err := f.Readdirnames(1000)
		for _, name := range names {
			if seen[name] {
				t.Fatalf("%s was listed twice", name)
			}
			seen[name] = true
		}
		if err == io.EOF {
			break
		}
		must(t, err)
	}
	if len(seen) != n {
		t.Errorf("%d entries, want %d", len(seen), n)
	}
	out := command(t, dir, "sh", "-c", "ls -f | wc -l; ls -l | wc -l")
	if want := fmt.Sprintf("%d\n%d\n", n+2, n+1); out != want {
		t.Errorf("ls: %q, want %q", out, want)
	}
	command(t, filepath.Dir(dir), "rm", "-rf", dir)
}
