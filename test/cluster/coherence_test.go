package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dfs"
	"dfs/client"
)

// Flags of open(2), with Linux's numbers.
const (
	oRead   = 0
	oWrite  = 1
	oRDWR   = 2
	oCreate = 0o100
	oExcl   = 0o200
	oTrunc  = 0o1000
	oAppend = 0o2000
	oDirect = 0o40000
)

// user is a client with a program that wants everything to work.
type user struct {
	t    *testing.T
	name string
	fs   *client.FS
}

func (u user) ok(what string, err error) {
	u.t.Helper()
	if err != nil {
		u.t.Fatalf("%s: %s: %v", u.name, what, err)
	}
}

// want wants a verdict.
func (u user) want(what string, err error, verdict dfs.Errno) {
	u.t.Helper()
	if !errors.Is(err, verdict) {
		u.t.Fatalf("%s: %s: %v, want %v", u.name, what, err, error(verdict))
	}
}

// is wants two values to be the same.
func is[T comparable](u user, what string, got, want T) {
	u.t.Helper()
	if got != want {
		u.t.Fatalf("%s: %s is %v, want %v", u.name, what, got, want)
	}
}

func (u user) lookup(dir dfs.Ino, name string) dfs.Attr {
	u.t.Helper()
	attr, err := u.fs.Lookup(u.t.Context(), root, dir, name)
	u.ok("lookup of "+name, err)
	return attr
}

// missing wants that there is no such name.
func (u user) missing(dir dfs.Ino, names ...string) {
	u.t.Helper()
	for _, name := range names {
		_, err := u.fs.Lookup(u.t.Context(), root, dir, name)
		u.want("lookup of "+name, err, dfs.ENOENT)
	}
}

// find is the inode that a name leads to: how one who did not make it comes to its
// number, as a kernel does.
func (u user) find(dir dfs.Ino, name string) dfs.Ino {
	u.t.Helper()
	return u.lookup(dir, name).Ino
}

func (u user) attr(ino dfs.Ino) dfs.Attr {
	u.t.Helper()
	attr, err := u.fs.GetAttr(u.t.Context(), ino)
	u.ok("getattr", err)
	return attr
}

func (u user) set(ino dfs.Ino, set client.SetAttr) dfs.Attr {
	u.t.Helper()
	attr, err := u.fs.SetAttr(u.t.Context(), root, ino, set)
	u.ok("setattr", err)
	return attr
}

// file makes a file and leaves it open until the end of the test.
func (u user) file(dir dfs.Ino, name string) *client.File {
	u.t.Helper()
	f, _, err := u.fs.Create(u.t.Context(), root, dir, name, 0o644, oRDWR|oCreate|oExcl)
	u.ok("create of "+name, err)
	u.t.Cleanup(f.Release)
	return f
}

// create makes a file and closes it.
func (u user) create(dir dfs.Ino, name string) dfs.Ino {
	u.t.Helper()
	f, attr, err := u.fs.Create(u.t.Context(), root, dir, name, 0o644, oRDWR|oCreate|oExcl)
	u.ok("create of "+name, err)
	u.ok("flush", f.Flush(u.t.Context()))
	f.Release()
	return attr.Ino
}

func (u user) mkdir(dir dfs.Ino, name string) dfs.Ino {
	u.t.Helper()
	attr, err := u.fs.Mkdir(u.t.Context(), root, dir, name, 0o755)
	u.ok("mkdir of "+name, err)
	return attr.Ino
}

func (u user) link(ino, dir dfs.Ino, name string) {
	u.t.Helper()
	_, err := u.fs.Link(u.t.Context(), root, ino, dir, name)
	u.ok("link to "+name, err)
}

func (u user) unlink(dir dfs.Ino, name string) {
	u.t.Helper()
	u.ok("unlink of "+name, u.fs.Unlink(u.t.Context(), root, dir, name))
}

func (u user) rmdir(dir dfs.Ino, name string) {
	u.t.Helper()
	u.ok("rmdir of "+name, u.fs.Rmdir(u.t.Context(), root, dir, name))
}

func (u user) rename(from dfs.Ino, name string, to dfs.Ino, newName string, flags uint32) {
	u.t.Helper()
	u.ok("rename of "+name+" to "+newName, u.fs.Rename(u.t.Context(), root, from, name, to, newName, flags))
}

// open opens a file until the end of the test.
func (u user) open(ino dfs.Ino, flags uint32) *client.File {
	u.t.Helper()
	f, err := u.fs.Open(u.t.Context(), root, ino, flags)
	u.ok("open", err)
	u.t.Cleanup(f.Release)
	return f
}

func (u user) write(f *client.File, p []byte, off int64) {
	u.t.Helper()
	for len(p) > 0 {
		n, err := f.Write(u.t.Context(), p, off)
		u.ok("write", err)
		p, off = p[n:], off+int64(n)
	}
}

// put writes and closes one descriptor.
func (u user) put(f *client.File, p []byte, off int64) {
	u.t.Helper()
	u.write(f, p, off)
	u.ok("flush", f.Flush(u.t.Context()))
}

// peek reads the whole file without asking for anything before.
func (u user) peek(f *client.File) []byte {
	u.t.Helper()
	var data []byte
	for buf := make([]byte, 64<<10); ; {
		n, err := f.Read(u.t.Context(), buf, int64(len(data)))
		u.ok("read", err)
		if n == 0 {
			return data
		}
		data = append(data, buf[:n]...)
	}
}

// get reads the whole file.
func (u user) get(f *client.File) []byte {
	u.t.Helper()
	return u.peek(f)
}

// holds wants an open file to hold these bytes.
func (u user) holds(f *client.File, want []byte) {
	u.t.Helper()
	u.same(u.get(f), want)
}

func (u user) same(got, want []byte) {
	u.t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	u.t.Fatalf("%s: read %d bytes, want %d; the first difference is at %d: %.40q, want %.40q", u.name, len(got), len(want), i, got[i:], want[i:])
}

// contents wants a file, opened anew, to hold these bytes, and its size to say so.
func (u user) contents(ino dfs.Ino, want []byte) {
	u.t.Helper()
	is(u, "size", u.attr(ino).Size, uint64(len(want)))
	f, err := u.fs.Open(u.t.Context(), root, ino, oRead)
	u.ok("open", err)
	defer f.Release()
	u.same(u.peek(f), want)
}

// list is what a folder holds, by small listings.
func (u user) list(dir dfs.Ino) map[string]dfs.Entry {
	u.t.Helper()
	all := map[string]dfs.Entry{}
	for cookie := uint64(0); ; {
		l, err := u.fs.ReadDir(u.t.Context(), root, dir, cookie, 16, true)
		u.ok("readdir", err)
		for _, e := range l.Entries {
			if _, twice := all[e.Name]; twice {
				u.t.Fatalf("%s: %s is listed twice", u.name, e.Name)
			}
			all[e.Name], cookie = e, e.Cookie
		}
		if l.End {
			return all
		}
		if len(l.Entries) == 0 {
			u.t.Fatalf("%s: a listing without entries that is not the end", u.name)
		}
	}
}

// lists wants a folder to hold exactly these names, which all lead where a lookup
// leads, and its size to say so.
func (u user) lists(dir dfs.Ino, names ...string) {
	u.t.Helper()
	all := u.list(dir)
	is(u, "listing", strings.Join(slices.Sorted(maps.Keys(all)), " "), strings.Join(slices.Sorted(slices.Values(names)), " "))
	for _, e := range all {
		attr := u.lookup(dir, e.Name)
		is(u, "inode of "+e.Name, e.Ino, attr.Ino)
		is(u, "attributes of "+e.Name+" in the listing", e.Attr, attr)
	}
	is(u, "size of the folder", u.attr(dir).Size, uint64(len(names)))
}

// coherenceCase is what A does and B must see at once. dir is an empty folder.
type coherenceCase struct {
	name string
	run  func(a, b user, dir dfs.Ino)
}

// TestOtherClientsSeeEachChangeAtOnce runs each case in a folder that A made, in one
// that B made, and in one that both have looked into: who has been there before
// decides who may answer from memory.
func TestOtherClientsSeeEachChangeAtOnce(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{ChunkServers: 3})
	one, two := c.Client(), c.Client()
	for _, group := range [][]coherenceCase{nameCases, listCases, attrCases, byteCases, openCases} {
		for _, x := range group {
			t.Run(x.name, func(t *testing.T) {
				for _, maker := range []string{"A", "B", "both"} {
					t.Run(maker, func(t *testing.T) {
						a, b := user{t, "A", one}, user{t, "B", two}
						first, other := a, b
						if maker == "B" {
							first, other = b, a
						}
						name := strings.ReplaceAll(t.Name(), "/", "-")
						dir := first.mkdir(dfs.RootIno, name)
						is(other, "folder", other.find(dfs.RootIno, name), dir)
						if maker == "both" {
							b.lists(dir)
							a.lists(dir)
							b.missing(dir, "x", "y")
						}
						x.run(a, b, dir)
					})
				}
			})
		}
	}
}

var nameCases = []coherenceCase{
	{"create", func(a, b user, dir dfs.Ino) {
		ino := a.create(dir, "x")
		is(b, "inode", b.find(dir, "x"), ino)
		_, _, err := b.fs.Create(b.t.Context(), root, dir, "x", 0o644, oRDWR|oCreate|oExcl)
		b.want("exclusive create", err, dfs.EEXIST)
		_, err = b.fs.Mkdir(b.t.Context(), root, dir, "x", 0o755)
		b.want("mkdir", err, dfs.EEXIST)
	}},
	{"absent-name-is-made", func(a, b user, dir dfs.Ino) {
		other := a.create(dir, "other")
		names := []string{"file", "dir", "symlink", "link", "renamed"}
		b.missing(dir, names...)
		a.missing(dir, names...)
		b.missing(dir, names...)
		file := a.create(dir, "file")
		is(b, "file", b.find(dir, "file"), file)
		sub := a.mkdir(dir, "dir")
		is(b, "folder", b.find(dir, "dir"), sub)
		attr, err := a.fs.Symlink(a.t.Context(), root, dir, "symlink", "file")
		a.ok("symlink", err)
		is(b, "symlink", b.find(dir, "symlink"), attr.Ino)
		target, err := b.fs.Readlink(b.t.Context(), attr.Ino)
		b.ok("readlink", err)
		is(b, "target", target, "file")
		a.link(file, dir, "link")
		is(b, "link", b.find(dir, "link"), file)
		is(b, "number of links", b.attr(file).Nlink, 2)
		a.rename(dir, "other", dir, "renamed", 0)
		is(b, "renamed file", b.find(dir, "renamed"), other)
		b.missing(dir, "other")
		b.missing(sub, "file")
		a.create(sub, "file")
		b.lookup(sub, "file")
	}},
	{"create-opens-what-the-other-made", func(a, b user, dir dfs.Ino) {
		b.missing(dir, "x")
		f := a.file(dir, "x")
		a.put(f, []byte("made by A"), 0)
		g, attr, err := b.fs.Create(b.t.Context(), root, dir, "x", 0o600, oRDWR|oCreate)
		b.ok("create", err)
		defer g.Release()
		is(b, "inode", attr.Ino, f.Ino())
		is(b, "size", attr.Size, 9)
		is(b, "mode", attr.Mode, dfs.TypeFile|0o644)
		b.holds(g, []byte("made by A"))
	}},
	{"unlink", func(a, b user, dir dfs.Ino) {
		ino := a.create(dir, "x")
		a.link(ino, dir, "y")
		b.lookup(dir, "x")
		is(b, "links", b.lookup(dir, "y").Nlink, 2)
		a.unlink(dir, "x")
		b.missing(dir, "x")
		b.want("unlink", b.fs.Unlink(b.t.Context(), root, dir, "x"), dfs.ENOENT)
		is(b, "links", b.lookup(dir, "y").Nlink, 1)
		is(b, "links", b.attr(ino).Nlink, 1)
		b.unlink(dir, "y")
		a.missing(dir, "y")
		a.want("unlink", a.fs.Unlink(a.t.Context(), root, dir, "y"), dfs.ENOENT)
	}},
	{"name-is-made-and-removed-in-turns", func(a, b user, dir dfs.Ino) {
		var last dfs.Ino
		for range 6 {
			b.missing(dir, "x")
			ino := a.create(dir, "x")
			if ino == last {
				a.t.Fatalf("inode %d is made twice", ino)
			}
			last = ino
			is(b, "inode", b.find(dir, "x"), ino)
			b.unlink(dir, "x")
			a, b = b, a
		}
	}},
	{"rmdir", func(a, b user, dir dfs.Ino) {
		sub := a.mkdir(dir, "x")
		b.lookup(dir, "x")
		b.missing(sub, "y")
		b.lists(sub)
		a.rmdir(dir, "x")
		b.missing(dir, "x")
		_, _, err := b.fs.Create(b.t.Context(), root, sub, "y", 0o644, oRDWR|oCreate)
		if !errors.Is(err, dfs.ENOENT) && !errors.Is(err, dfs.ESTALE) {
			b.t.Fatalf("create in a folder that was removed: %v", err)
		}
		is(b, "links of the parent", b.attr(dir).Nlink, 2)
	}},
	{"rmdir-of-what-the-other-filled", func(a, b user, dir dfs.Ino) {
		sub := a.mkdir(dir, "x")
		a.lists(sub)
		b.create(sub, "y")
		a.want("rmdir", a.fs.Rmdir(a.t.Context(), root, dir, "x"), dfs.ENOTEMPTY)
		b.unlink(sub, "y")
		a.rmdir(dir, "x")
		b.missing(dir, "x")
	}},
	{"rename", func(a, b user, dir dfs.Ino) {
		ino := a.create(dir, "x")
		b.lookup(dir, "x")
		b.missing(dir, "y")
		a.rename(dir, "x", dir, "y", 0)
		b.missing(dir, "x")
		is(b, "inode", b.find(dir, "y"), ino)
		b.want("rename", b.fs.Rename(b.t.Context(), root, dir, "x", dir, "z", 0), dfs.ENOENT)
		b.rename(dir, "y", dir, "x", 0)
		a.missing(dir, "y")
		is(a, "inode", a.find(dir, "x"), ino)
	}},
	{"rename-over", func(a, b user, dir dfs.Ino) {
		x, y := a.create(dir, "x"), b.create(dir, "y")
		is(b, "inode", b.find(dir, "x"), x)
		is(a, "inode", a.find(dir, "y"), y)
		a.rename(dir, "x", dir, "y", 0)
		b.missing(dir, "x")
		is(b, "inode", b.find(dir, "y"), x)
		b.lists(dir, "y")
	}},
	{"rename-between-folders", func(a, b user, dir dfs.Ino) {
		from, to := a.mkdir(dir, "from"), b.mkdir(dir, "to")
		ino := a.create(from, "x")
		b.lookup(from, "x")
		b.missing(to, "x")
		a.rename(from, "x", to, "x", 0)
		b.missing(from, "x")
		is(b, "inode", b.find(to, "x"), ino)
		b.lists(from)
		b.lists(to, "x")
	}},
	{"rename-of-a-folder", func(a, b user, dir dfs.Ino) {
		from, to := a.mkdir(dir, "from"), b.mkdir(dir, "to")
		sub := a.mkdir(from, "sub")
		ino := b.create(b.find(from, "sub"), "x")
		is(b, "links", b.attr(from).Nlink, 3)
		a.rename(from, "sub", to, "sub", 0)
		b.missing(from, "sub")
		is(b, "folder", b.find(to, "sub"), sub)
		is(b, "inode", b.find(sub, "x"), ino)
		is(b, "links of the old parent", b.attr(from).Nlink, 2)
		is(b, "links of the new parent", b.attr(to).Nlink, 3)
		l, err := b.fs.ReadDir(b.t.Context(), root, sub, 0, 10, false)
		b.ok("readdir", err)
		is(b, "parent", l.Parent, to)
		// Into itself, by the other client, which has to know where it is now.
		b.want("rename into itself", b.fs.Rename(b.t.Context(), root, dir, "to", sub, "to", 0), dfs.EINVAL)
	}},
	{"rename-exchange", func(a, b user, dir dfs.Ino) {
		x, y := a.create(dir, "x"), b.create(dir, "y")
		b.lookup(dir, "x")
		a.lookup(dir, "y")
		a.rename(dir, "x", dir, "y", dfs.RenameExchange)
		is(b, "inode", b.find(dir, "x"), y)
		is(b, "inode", b.find(dir, "y"), x)
	}},
	{"rename-noreplace", func(a, b user, dir dfs.Ino) {
		a.create(dir, "x")
		a.missing(dir, "y")
		y := b.create(dir, "y")
		a.want("rename", a.fs.Rename(a.t.Context(), root, dir, "x", dir, "y", dfs.RenameNoReplace), dfs.EEXIST)
		is(a, "inode", a.find(dir, "y"), y)
		b.lookup(dir, "x")
		b.unlink(dir, "y")
		a.rename(dir, "x", dir, "y", dfs.RenameNoReplace)
		b.missing(dir, "x")
	}},
	{"link-to-what-the-other-removed", func(a, b user, dir dfs.Ino) {
		ino := a.create(dir, "x")
		is(b, "links", b.lookup(dir, "x").Nlink, 1)
		a.unlink(dir, "x")
		if _, err := b.fs.Link(b.t.Context(), root, ino, dir, "y"); !errors.Is(err, dfs.ENOENT) && !errors.Is(err, dfs.ESTALE) {
			b.t.Fatalf("link: %v", err)
		}
		a.missing(dir, "y")
	}},
	{"path-through-a-symlink-that-is-replaced", func(a, b user, dir dfs.Ino) {
		path := "/" + strings.ReplaceAll(a.t.Name(), "/", "-")
		for i, sub := range []string{"one", "two"} {
			a.mkdir(dir, sub)
			a.ok("write", a.fs.WriteFile(a.t.Context(), root, path+"/"+sub+"/f", content(uint64(i), 100), 0o644))
			_, err := a.fs.Symlink(a.t.Context(), root, dir, "new", sub)
			a.ok("symlink", err)
			a.rename(dir, "new", dir, "current", 0)
			got, err := b.fs.ReadFile(b.t.Context(), root, path+"/current/f")
			b.ok("read", err)
			b.same(got, content(uint64(i), 100))
		}
	}},
	{"times-and-links-of-the-folder", func(a, b user, dir dfs.Ino) {
		before := b.attr(dir)
		step := func(what string, size uint64, nlink uint32) {
			b.t.Helper()
			now := b.attr(dir)
			is(b, "size after "+what, now.Size, size)
			is(b, "links after "+what, now.Nlink, nlink)
			if now.Change <= before.Change || now.Mtime.Compare(before.Mtime) < 0 || now.Ctime.Compare(before.Ctime) < 0 {
				b.t.Fatalf("after %s the folder is %+v, before it was %+v", what, now, before)
			}
			is(b, "a look by the one who made the change", a.attr(dir), now)
			before = now
		}
		a.create(dir, "x")
		step("create", 1, 2)
		a.mkdir(dir, "sub")
		step("mkdir", 2, 3)
		a.rename(dir, "x", dir, "y", 0)
		step("rename", 2, 3)
		a.rmdir(dir, "sub")
		step("rmdir", 1, 2)
		a.unlink(dir, "y")
		step("unlink", 0, 2)
	}},
	{"durable-folder", func(a, b user, dir dfs.Ino) {
		for i := range 20 {
			a.create(dir, fmt.Sprint("f", i))
		}
		a.ok("fsync of the folder", a.fs.FsyncDir(a.t.Context(), dir))
		for i := range 20 {
			b.lookup(dir, fmt.Sprint("f", i))
		}
	}},
}

var listCases = []coherenceCase{
	{"listing-after-changes", func(a, b user, dir dfs.Ino) {
		b.lists(dir)
		a.create(dir, "x")
		b.lists(dir, "x")
		a.mkdir(dir, "y")
		b.lists(dir, "x", "y")
		a.rename(dir, "x", dir, "z", 0)
		b.lists(dir, "y", "z")
		b.rmdir(dir, "y")
		a.lists(dir, "z")
		a.link(a.find(dir, "z"), dir, "x")
		b.lists(dir, "x", "z")
		b.unlink(dir, "z")
		a.lists(dir, "x")
		a.unlink(dir, "x")
		b.lists(dir)
	}},
	{"listing-has-attributes-of-now", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		b.lists(dir, "x")
		a.put(f, []byte("12345"), 0)
		is(b, "size", b.list(dir)["x"].Attr.Size, 5)
		a.set(f.Ino(), client.SetAttr{Mode: new(uint32(0o600))})
		is(b, "mode", b.list(dir)["x"].Attr.Mode, dfs.TypeFile|0o600)
		a.link(f.Ino(), dir, "y")
		is(b, "links", b.list(dir)["x"].Attr.Nlink, 2)
	}},
	{"listing-goes-on-while-the-other-changes-the-folder", func(a, b user, dir dfs.Ino) {
		const n = 60
		for i := range n {
			a.create(dir, fmt.Sprintf("keep%02d", i))
			a.create(dir, fmt.Sprintf("drop%02d", i))
		}
		seen := map[string]int{}
		for cookie, page := uint64(0), 0; ; page++ {
			l, err := b.fs.ReadDir(b.t.Context(), root, dir, cookie, 7, false)
			b.ok("readdir", err)
			for _, e := range l.Entries {
				seen[e.Name]++
				cookie = e.Cookie
			}
			if l.End {
				break
			}
			if page < n {
				a.unlink(dir, fmt.Sprintf("drop%02d", page))
				a.create(dir, fmt.Sprintf("new%02d", page))
			}
		}
		for i := range n {
			is(b, fmt.Sprintf("number of times that keep%02d is listed", i), seen[fmt.Sprintf("keep%02d", i)], 1)
		}
		for name, times := range seen {
			is(b, "number of times that "+name+" is listed", times, 1)
		}
	}},
	{"two-fill-one-folder", func(a, b user, dir dfs.Ino) {
		var wg sync.WaitGroup
		const n = 40
		for _, u := range []user{a, b} {
			wg.Go(func() {
				for i := range n {
					f, _, err := u.fs.Create(u.t.Context(), root, dir, fmt.Sprint(u.name, i), 0o644, oRDWR|oCreate|oExcl)
					if err != nil {
						u.t.Errorf("%s: create: %v", u.name, err)
						return
					}
					f.Release()
				}
			})
		}
		wg.Wait()
		var names []string
		for i := range n {
			names = append(names, fmt.Sprint("A", i), fmt.Sprint("B", i))
		}
		a.lists(dir, names...)
		b.lists(dir, names...)
	}},
	{"one-of-two-wins-each-exclusive-create", func(a, b user, dir dfs.Ino) {
		var wg sync.WaitGroup
		var won [2]map[string]dfs.Ino
		for i, u := range []user{a, b} {
			won[i] = map[string]dfs.Ino{}
			wg.Go(func() {
				for k := range 40 {
					name := fmt.Sprint("f", k)
					f, attr, err := u.fs.Create(u.t.Context(), root, dir, name, 0o644, oRDWR|oCreate|oExcl)
					if errors.Is(err, dfs.EEXIST) {
						continue
					}
					if err != nil {
						u.t.Errorf("%s: create: %v", u.name, err)
						return
					}
					won[i][name] = attr.Ino
					f.Release()
				}
			})
		}
		wg.Wait()
		for k := range 40 {
			name := fmt.Sprint("f", k)
			ino, other := won[0][name], won[1][name]
			if (ino == 0) == (other == 0) {
				a.t.Fatalf("%s was made as %d by A and as %d by B", name, ino, other)
			}
			is(a, name, a.find(dir, name), ino+other)
			is(b, name, b.find(dir, name), ino+other)
		}
	}},
}

var attrCases = []coherenceCase{
	{"chmod-and-chown", func(a, b user, dir dfs.Ino) {
		ino := a.create(dir, "x")
		b.lookup(dir, "x")
		for i := range 4 {
			mode, id := uint32(0o600+i), uint32(1000+i)
			set := a.set(ino, client.SetAttr{Mode: &mode, UID: &id, GID: &id})
			got := b.attr(ino)
			is(b, "attributes", got, set)
			is(b, "mode", got.Mode, dfs.TypeFile|mode)
			is(b, "owner", got.UID, id)
			is(b, "attributes by name", b.lookup(dir, "x"), got)
			a, b = b, a
		}
	}},
	{"chmod-of-the-folder", func(a, b user, dir dfs.Ino) {
		a.create(dir, "x")
		someone := dfs.Cred{UID: 4711, GID: 4711}
		_, err := b.fs.Lookup(b.t.Context(), someone, dir, "x")
		b.ok("lookup", err)
		a.set(dir, client.SetAttr{Mode: new(uint32(0o700))})
		is(b, "mode", b.attr(dir).Mode, dfs.TypeDir|0o700)
		_, err = b.fs.Lookup(b.t.Context(), someone, dir, "x")
		b.want("lookup", err, dfs.EACCES)
		a.set(dir, client.SetAttr{Mode: new(uint32(0o755))})
		_, err = b.fs.Lookup(b.t.Context(), someone, dir, "x")
		b.ok("lookup", err)
	}},
	{"new-files-have-the-group-of-a-folder-that-the-other-marked", func(a, b user, dir dfs.Ino) {
		b.create(dir, "before")
		a.set(dir, client.SetAttr{Mode: new(uint32(0o2755)), GID: new(uint32(77))})
		b.create(dir, "after")
		is(a, "group before", a.lookup(dir, "before").GID, 0)
		is(a, "group after", a.lookup(dir, "after").GID, 77)
	}},
	{"times", func(a, b user, dir dfs.Ino) {
		ino := a.create(dir, "x")
		before := b.lookup(dir, "x")
		at, mt := dfs.Time{Sec: 1_000_000, Nsec: 1}, dfs.Time{Sec: 2_000_000, Nsec: 999_999_999}
		a.set(ino, client.SetAttr{Atime: &at, Mtime: &mt})
		got := b.attr(ino)
		is(b, "atime", got.Atime, at)
		is(b, "mtime", got.Mtime, mt)
		if got.Ctime.Compare(before.Ctime) < 0 || got.Change <= before.Change {
			b.t.Fatalf("before %+v, after %+v", before, got)
		}
		set := a.set(ino, client.SetAttr{AtimeNow: true, MtimeNow: true})
		got = b.attr(ino)
		is(b, "attributes", got, set)
		if got.Mtime.Compare(before.Mtime) < 0 {
			b.t.Fatalf("mtime now is %v, before it was %v", got.Mtime, before.Mtime)
		}
	}},
	{"times-outlive-bytes-of-before", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		a.write(f, []byte("12345"), 0)
		mt := dfs.Time{Sec: 3_000_000}
		a.set(f.Ino(), client.SetAttr{Mtime: &mt})
		got := b.lookup(dir, "x")
		is(b, "mtime", got.Mtime, mt)
		is(b, "size", got.Size, 5)
		a.ok("fsync", f.Fsync(a.t.Context(), false))
		is(b, "mtime", b.attr(f.Ino()).Mtime, mt)
	}},
	{"truncate", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		want := content(1, 10_000)
		a.put(f, want, 0)
		g := b.open(b.find(dir, "x"), oRDWR)
		b.holds(g, want)
		for i, size := range []uint64{5000, 7000, 0, 4096, 4095} {
			a.set(f.Ino(), client.SetAttr{Size: &size})
			want = append(want[:min(len(want), int(size))], make([]byte, max(0, int(size)-len(want)))...)
			is(b, fmt.Sprint("size ", i), b.attr(f.Ino()).Size, size)
			b.holds(g, want)
			b.contents(f.Ino(), want)
		}
		b.set(f.Ino(), client.SetAttr{Size: new(uint64(3))})
		a.holds(f, want[:3])
	}},
	{"truncating-open", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		a.put(f, content(1, 5000), 0)
		g := b.open(b.find(dir, "x"), oRDWR|oTrunc)
		is(a, "size", a.attr(f.Ino()).Size, 0)
		b.put(g, []byte("new"), 0)
		a.holds(f, []byte("new"))
	}},
	{"xattrs", func(a, b user, dir dfs.Ino) {
		ino, ctx := a.create(dir, "x"), a.t.Context()
		get := func(u user, want string) {
			u.t.Helper()
			v, err := u.fs.GetXattr(ctx, root, ino, "user.a")
			if want == "" {
				u.want("getxattr", err, dfs.ENODATA)
				return
			}
			u.ok("getxattr", err)
			is(u, "xattr", string(v), want)
		}
		is(b, "inode", b.find(dir, "x"), ino)
		get(b, "")
		a.ok("setxattr", a.fs.SetXattr(ctx, root, ino, "user.a", []byte("one"), dfs.XattrCreate))
		get(b, "one")
		b.want("setxattr", b.fs.SetXattr(ctx, root, ino, "user.a", []byte("x"), dfs.XattrCreate), dfs.EEXIST)
		b.ok("setxattr", b.fs.SetXattr(ctx, root, ino, "user.a", []byte("two"), dfs.XattrReplace))
		get(a, "two")
		a.ok("setxattr", a.fs.SetXattr(ctx, root, ino, "user.b", []byte("more"), 0))
		names, err := b.fs.ListXattr(ctx, root, ino)
		b.ok("listxattr", err)
		slices.Sort(names)
		is(b, "xattrs", strings.Join(names, " "), "user.a user.b")
		change := b.attr(ino).Change
		a.ok("removexattr", a.fs.RemoveXattr(ctx, root, ino, "user.a"))
		get(b, "")
		b.want("removexattr", b.fs.RemoveXattr(ctx, root, ino, "user.a"), dfs.ENODATA)
		if now := b.attr(ino).Change; now <= change {
			b.t.Fatalf("change is %d, was %d", now, change)
		}
	}},
	{"set-id-bits-go-with-a-write-of-the-other", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		a.put(f, []byte("program"), 0)
		a.set(f.Ino(), client.SetAttr{Mode: new(uint32(0o6777))})
		b.lookup(dir, "x")
		g, err := b.fs.Open(b.t.Context(), dfs.Cred{UID: 4711, Checked: true}, f.Ino(), oRDWR)
		b.ok("open", err)
		defer g.Release()
		b.put(g, []byte("other"), 0)
		is(a, "mode", a.attr(f.Ino()).Mode, dfs.TypeFile|0o777)
	}},
}

var byteCases = []coherenceCase{
	{"bytes-after-flush", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		before := b.lookup(dir, "x")
		want := content(1, 100_000)
		a.put(f, want, 0)
		after := b.attr(f.Ino())
		is(b, "size", after.Size, uint64(len(want)))
		if after.Change <= before.Change || after.Mtime.Compare(before.Mtime) < 0 || after.Ctime.Compare(before.Ctime) < 0 {
			b.t.Fatalf("before the write %+v, after it %+v", before, after)
		}
		b.contents(f.Ino(), want)
	}},
	{"bytes-after-fsync", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		b.contents(b.find(dir, "x"), nil)
		for i, dataOnly := range []bool{true, false} {
			want := content(uint64(i), 3000*(i+1))
			a.write(f, want, 0)
			a.ok("fsync", f.Fsync(a.t.Context(), dataOnly))
			b.contents(f.Ino(), want)
		}
	}},
	{"bytes-after-sync", func(a, b user, dir dfs.Ino) {
		f, g := a.file(dir, "x"), a.file(dir, "y")
		a.write(f, content(1, 300), 0)
		a.write(g, content(2, 200), 0)
		a.ok("sync", a.fs.Sync(a.t.Context()))
		b.contents(b.find(dir, "x"), content(1, 300))
		b.contents(b.find(dir, "y"), content(2, 200))
	}},
	{"bytes-of-a-file-that-is-open-and-was-read", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		want := content(1, 20_000)
		a.put(f, want, 0)
		g := b.open(b.find(dir, "x"), oRead)
		b.holds(g, want)
		for i := range 6 {
			p, off := content(uint64(10+i), 1000), 500+i*3800
			want = append(want, make([]byte, max(0, off+len(p)-len(want)))...)
			copy(want[off:], p)
			a.put(f, p, int64(off))
			b.holds(g, want)
		}
	}},
	{"bytes-of-an-open-file-without-asking", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		g := b.open(b.find(dir, "x"), oRead)
		for i := range 6 {
			want := content(uint64(i), 5000+i)
			a.put(f, want, 0)
			b.same(b.peek(g), want)
		}
	}},
	{"bytes-past-the-caches", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		g := b.open(b.find(dir, "x"), oRead|oDirect)
		for i := range 4 {
			want := content(uint64(i), 5000+i)
			a.put(f, want, 0)
			b.same(b.peek(g), want)
		}
	}},
	{"rename-commits-the-bytes", func(a, b user, dir dfs.Ino) {
		old := a.file(dir, "x")
		a.put(old, []byte("old"), 0)
		is(b, "size", b.lookup(dir, "x").Size, 3)
		f := a.file(dir, "x.tmp")
		want := content(1, 10_000)
		a.write(f, want, 0)
		a.rename(dir, "x.tmp", dir, "x", 0)
		attr := b.lookup(dir, "x")
		is(b, "inode", attr.Ino, f.Ino())
		b.contents(attr.Ino, want)
	}},
	{"two-write-in-turns", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		g := b.open(b.find(dir, "x"), oRDWR)
		want := make([]byte, 8192)
		a.put(f, want, 0)
		for i := range 8 {
			p, off := content(uint64(i), 700), i*911 // over the end of pages and over each other
			if i%2 == 1 {
				off -= 300
			}
			copy(want[off:], p)
			a.put(f, p, int64(off))
			b.holds(g, want)
			a.holds(f, want)
			a, b, f, g = b, a, g, f
		}
		a.contents(f.Ino(), want)
	}},
	{"two-write-different-pieces-at-once", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		g := b.open(b.find(dir, "x"), oRDWR)
		const piece = 1000
		want := content(1, 40*piece)
		var wg sync.WaitGroup
		for i, x := range []*client.File{f, g} {
			u := []user{a, b}[i]
			wg.Go(func() {
				for k := i; k < 40; k += 2 {
					if _, err := x.Write(u.t.Context(), want[k*piece:(k+1)*piece], int64(k*piece)); err != nil {
						u.t.Errorf("%s: write: %v", u.name, err)
					}
					if k%5 == 0 {
						if err := x.Flush(u.t.Context()); err != nil {
							u.t.Errorf("%s: flush: %v", u.name, err)
						}
					}
				}
				if err := x.Flush(u.t.Context()); err != nil {
					u.t.Errorf("%s: flush: %v", u.name, err)
				}
			})
		}
		wg.Wait()
		a.contents(f.Ino(), want)
		b.contents(f.Ino(), want)
	}},
	{"two-append-in-turns", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		users, files := []user{a, b}, []*client.File{a.open(f.Ino(), oRDWR|oAppend), b.open(b.find(dir, "x"), oRDWR|oAppend)}
		var want []byte
		for i := range 12 {
			u, x := users[i%2], files[i%2]
			line := fmt.Appendf(nil, "line %d of %s\n", i, u.name)
			want = append(want, line...)
			u.put(x, line, 0)
			is(users[1-i%2], "size", users[1-i%2].attr(f.Ino()).Size, uint64(len(want)))
		}
		a.contents(f.Ino(), want)
		b.contents(f.Ino(), want)
	}},
	{"two-append-at-once", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		var wg sync.WaitGroup
		want := map[string]int{}
		for _, u := range []user{a, b} {
			x := u.open(u.find(dir, "x"), oWrite|oAppend)
			for i := range 30 {
				want[fmt.Sprintf("%s%06d", u.name, i)] = 1
			}
			wg.Go(func() {
				for i := range 30 {
					if _, err := x.Write(u.t.Context(), fmt.Appendf(nil, "%s%06d\n", u.name, i), 0); err != nil {
						u.t.Errorf("%s: write: %v", u.name, err)
					}
				}
				if err := x.Flush(u.t.Context()); err != nil {
					u.t.Errorf("%s: flush: %v", u.name, err)
				}
			})
		}
		wg.Wait()
		got := map[string]int{}
		for line := range strings.Lines(string(a.get(a.open(f.Ino(), oRead)))) {
			got[strings.TrimSuffix(line, "\n")]++
		}
		if !maps.Equal(got, want) {
			a.t.Fatalf("the file has %d different lines, want each of %d once: %v", len(got), len(want), got)
		}
	}},
	{"holes", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		g := b.open(b.find(dir, "x"), oRDWR)
		b.holds(g, nil)
		a.put(f, []byte("end"), 9000)
		want := append(make([]byte, 9000), "end"...)
		b.holds(g, want)
		b.put(g, []byte("middle"), 4000)
		copy(want[4000:], "middle")
		a.holds(f, want)
	}},
}

var openCases = []coherenceCase{
	{"file-unlinked-by-the-other-is-read-and-written-until-it-is-closed", func(a, b user, dir dfs.Ino) {
		ctx, want := a.t.Context(), content(1, 30_000)
		f := a.file(dir, "x")
		a.put(f, want, 0)
		g := b.open(b.find(dir, "x"), oRDWR)
		b.unlink(dir, "x")
		a.missing(dir, "x")
		a.holds(f, want)
		b.holds(g, want)
		for _, u := range []user{a, b} {
			is(u, "links", u.attr(f.Ino()).Nlink, 0)
		}
		copy(want[100:], "still here")
		a.put(f, []byte("still here"), 100)
		b.holds(g, want)
		f.Release()
		b.holds(g, want)
		b.put(g, []byte("and here"), 30_000)
		b.holds(g, append(want, "and here"...))
		b.ok("fsync", g.Fsync(ctx, false))
		g.Release()
	}},
	{"file-replaced-by-the-other-is-read-until-it-is-closed", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		a.put(f, []byte("old"), 0)
		g := b.file(dir, "y")
		b.put(g, []byte("new"), 0)
		b.rename(dir, "y", dir, "x", 0)
		a.holds(f, []byte("old"))
		is(a, "links", a.attr(f.Ino()).Nlink, 0)
		attr := a.lookup(dir, "x")
		is(a, "inode", attr.Ino, g.Ino())
		a.contents(attr.Ino, []byte("new"))
	}},
	{"file-opened-just-before-the-other-unlinks-it", func(a, b user, dir dfs.Ino) {
		ino := a.create(dir, "x")
		a.ok("sync", a.fs.Sync(a.t.Context()))
		f := a.open(ino, oRDWR) // perhaps without telling anybody
		b.unlink(dir, "x")
		a.put(f, []byte("late"), 0)
		time.Sleep(300 * time.Millisecond) // for those who free inodes that nobody has open
		a.holds(f, []byte("late"))
	}},
	{"inode-of-which-only-the-number-is-known", func(a, b user, dir dfs.Ino) {
		// As of a file handle: nobody has looked up the name.
		f := a.file(dir, "x")
		a.put(f, []byte("one"), 0)
		b.contents(f.Ino(), []byte("one"))
		sub := a.mkdir(dir, "sub")
		b.create(sub, "y")
		a.lists(sub, "y")
	}},
	{"link-to-an-open-file", func(a, b user, dir dfs.Ino) {
		f := a.file(dir, "x")
		a.put(f, []byte("one"), 0)
		b.link(b.find(dir, "x"), dir, "y")
		a.unlink(dir, "x")
		a.put(f, []byte("two"), 0)
		is(b, "links", b.lookup(dir, "y").Nlink, 1)
		b.contents(f.Ino(), []byte("two"))
	}},
	{"file-replaced-again-and-again-is-never-missing", func(a, b user, dir dfs.Ino) {
		put := func(i int) {
			f, _, err := a.fs.Create(a.t.Context(), root, dir, "tmp", 0o644, oRDWR|oCreate|oExcl)
			a.ok("create", err)
			defer f.Release()
			a.write(f, bytes.Repeat(fmt.Appendf(nil, "%08d", i), 100), 0)
			a.rename(dir, "tmp", dir, "x", 0)
		}
		put(0)
		var begun, done atomic.Int64
		var stop atomic.Bool
		var wg sync.WaitGroup
		defer wg.Wait()
		defer stop.Store(true)
		// version reads what is there, and wants all of it to be of one version that is
		// not older than what was done before.
		version := func(what string, open func() (*client.File, error)) {
			least := done.Load()
			f, err := open()
			if f == nil {
				if err != nil {
					b.t.Errorf("B: %s: %v", what, err)
				}
				return
			}
			defer f.Release()
			p := make([]byte, 1000)
			n, err := f.Read(b.t.Context(), p, 0)
			if err != nil || n != 800 {
				b.t.Errorf("B: %s: read %d bytes: %v", what, n, err)
				return
			}
			v := int64(0)
			if _, err := fmt.Sscanf(string(p[:8]), "%08d", &v); err != nil || !bytes.Equal(p[:n], bytes.Repeat(p[:8], 100)) {
				b.t.Errorf("B: %s: it holds %q: %v", what, p[:n], err)
			}
			if most := begun.Load(); v < least || v > most {
				b.t.Errorf("B: %s: it is version %d, want from %d to %d", what, v, least, most)
			}
		}
		wg.Go(func() {
			for !stop.Load() && !b.t.Failed() {
				version("create", func() (*client.File, error) {
					f, _, err := b.fs.Create(b.t.Context(), root, dir, "x", 0o600, oRead|oCreate)
					return f, err
				})
			}
		})
		wg.Go(func() {
			for !stop.Load() && !b.t.Failed() {
				version("lookup", func() (*client.File, error) {
					attr, err := b.fs.Lookup(b.t.Context(), root, dir, "x")
					if err != nil {
						return nil, err
					}
					f, err := b.fs.Open(b.t.Context(), root, attr.Ino, oRead)
					if errors.Is(err, dfs.ENOENT) || errors.Is(err, dfs.ESTALE) {
						return nil, nil // replaced and freed since; the kernel looks again
					}
					return f, err
				})
			}
		})
		for i := 1; i < 60 && !b.t.Failed(); i++ {
			begun.Store(int64(i))
			put(i)
			done.Store(int64(i))
		}
	}},
}

// What nobody has open and no name leads to is freed, whoever closed it last.
func TestFileUnlinkedByAnotherClientIsFreedAfterTheLastClose(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Masters: 1, ChunkServers: 3, DropWait: 200 * time.Millisecond, ReportInterval: 200 * time.Millisecond, SessionTTL: 5 * time.Second})
	a, b := user{t, "A", c.Client()}, user{t, "B", c.Client()}
	want := content(1, 300_000)
	f := a.file(dfs.RootIno, "x")
	a.put(f, want, 0)
	g := b.open(b.find(dfs.RootIno, "x"), oRead)
	b.holds(g, want)
	b.unlink(dfs.RootIno, "x")
	a.missing(dfs.RootIno, "x")
	f.Release()
	time.Sleep(500 * time.Millisecond) // it must not be freed: B has it open
	b.holds(g, want)
	st, err := c.Status()
	if err != nil || st.Orphans != 1 || st.Inodes != 2 {
		t.Fatalf("%d orphans, %d inodes, %v, while B has the file open", st.GetOrphans(), st.GetInodes(), err)
	}
	g.Release()
	// Chunks are sealed with the session that wrote them.
	a.ok("close", a.fs.Close())
	c.Eventually("free space", func() error {
		st, err := c.Status()
		if err != nil {
			return err
		}
		if n := c.fragments(); n > 0 || st.Chunks > 0 || st.Orphans > 0 || st.Inodes != 1 {
			return fmt.Errorf("%d fragment files, %d chunks, %d orphans, %d inodes", n, st.Chunks, st.Orphans, st.Inodes)
		}
		return nil
	})
	b.lists(dfs.RootIno)
}

// What is in the memory of a client when it is closed is there for others.
func TestClosedClientLeavesWhatItDid(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Masters: 1, ChunkServers: 3})
	a, b := user{t, "A", c.Client()}, user{t, "B", c.Client()}
	dir := a.mkdir(dfs.RootIno, "dir")
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprint("f", i))
		f := a.file(dir, names[i])
		a.write(f, content(uint64(i), 100+i), 0)
	}
	a.ok("close", a.fs.Close())
	b.lists(dir, names...)
	for i, name := range names {
		b.contents(b.find(dir, name), content(uint64(i), 100+i))
	}
}
