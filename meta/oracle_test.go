package meta

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"dfs"
	"dfs/test/model"
)

// weakHash makes names collide all the time.
func weakHash(name string) uint64 {
	sum := uint64(1)
	for _, c := range []byte(name) {
		sum += uint64(c)
	}
	return 1 + sum%3
}

// oracle runs random operations on meta and on the model and compares.
type oracle struct {
	*bench
	rt     *rapid.T
	model  *model.FS
	last   map[dfs.Ino]dfs.Attr // what was seen before, for the Change counter
	fresh  dfs.Ino
	chunk  uint64     // sequence of the open chunk
	end    uint32     // of what is committed of it
	prev   dfs.Extent // the last one that was committed
	replay []Command
}

func TestAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := &oracle{bench: newBenchHash(rt, weakHash), rt: rt, last: make(map[dfs.Ino]dfs.Attr), chunk: 1, end: firstRecord}
		root, err := o.view().GetAttr(dfs.RootIno)
		if err != nil {
			rt.Fatalf("root: %v", err)
		}
		o.model = model.New(root.Btime)
		o.model.Granted = func(ino dfs.Ino) bool { return ino >= dfs.FirstIno && ino < dfs.FirstIno+inodesFirst+inodesGrant }
		o.fresh = dfs.FirstIno
		// Everybody may write in the root, so that not only root gets anywhere.
		mode := uint32(0o777)
		o.do(&SetAttr{Ino: dfs.RootIno, Mode: &mode})
		o.model.Now = dfs.Time{Sec: o.now, Nsec: uint32(o.now % 1000)}
		o.model.Chmod(dfs.RootIno, mode)
		rt.Repeat(map[string]func(*rapid.T){
			"create":      o.create,
			"create2":     o.create,
			"create3":     o.create,
			"tmpfile":     o.tmpfile,
			"link":        o.link,
			"unlink":      o.unlink,
			"rmdir":       o.rmdir,
			"rename":      o.rename,
			"rename2":     o.rename,
			"chmod":       o.chmod,
			"chown":       o.chown,
			"truncate":    o.truncate,
			"utimens":     o.utimens,
			"setxattr":    o.setXattr,
			"setacl":      o.setACL,
			"removexattr": o.removeXattr,
			"getxattr":    o.getXattr,
			"commit":      o.commit,
			"commit2":     o.commit,
			"lookup":      o.lookup,
			"reap":        o.reap,
			"drop":        o.drop,
			"retry":       o.retry,
			"":            o.compare,
		})
		o.check()
	})
}

var (
	drawUID  = rapid.SampledFrom([]uint32{0, 1, 1, 2})
	drawGID  = rapid.SampledFrom([]uint32{0, 10, 11})
	drawName = rapid.SampledFrom([]string{
		"a", "b", "c", "d", "e", "f", "ab", "ba", "a", "b", "c", ".", "..", "", "x/y", "n\x00", strings.Repeat("n", 256), strings.Repeat("n", 255),
	})
	drawMode = rapid.SampledFrom([]uint32{
		0o644, 0o755, 0o777, 0o700, 0o070, 0o007, 0o000, 0o4755, 0o2755, 0o2745, 0o1777, 0o6777, 0o3777, 0o2777,
	})
	drawType = rapid.SampledFrom([]uint32{
		dfs.TypeFile, dfs.TypeFile, dfs.TypeDir, dfs.TypeDir, dfs.TypeDir, dfs.TypeLink, dfs.TypeFIFO, dfs.TypeChar, dfs.TypeBlock, 0, 0o030000,
	})
	drawXattr = rapid.SampledFrom([]string{
		"user.a", "user.b", "user.", "trusted.t", "security.s", "system.other", dfs.XattrAccessACL, dfs.XattrDefaultACL, "nonsense", "", "user." + strings.Repeat("n", 251),
	})
)

func maybe[T any](rt *rapid.T, g *rapid.Generator[T], label string) *T {
	if !rapid.Bool().Draw(rt, label+"?") {
		return nil
	}
	v := g.Draw(rt, label)
	return &v
}

func drawTime(rt *rapid.T, label string) dfs.Time {
	return dfs.Time{Sec: rapid.Int64Range(-5, 5000).Draw(rt, label), Nsec: rapid.Uint32Range(0, 999_999_999).Draw(rt, label+" ns")}
}

// ino draws an inode that is there, sometimes one that is not.
func (o *oracle) ino(rt *rapid.T, label string) dfs.Ino {
	list := o.numbers()
	return rapid.SampledFrom(append(list, 999)).Draw(rt, label)
}

func (o *oracle) numbers() []dfs.Ino {
	var list []dfs.Ino
	for ino := range o.model.Nodes {
		list = append(list, ino)
	}
	slices.Sort(list)
	return list
}

// folder draws mostly folders.
func (o *oracle) folder(rt *rapid.T, label string) dfs.Ino {
	list := slices.DeleteFunc(o.numbers(), func(ino dfs.Ino) bool { return o.model.Nodes[ino].Children == nil })
	if rapid.IntRange(0, 9).Draw(rt, label+" any") == 0 {
		return o.ino(rt, label)
	}
	return rapid.SampledFrom(list).Draw(rt, label)
}

// run carries out one command on meta as somebody, and tells the model who.
func (o *oracle) run(rt *rapid.T, op Op) Reply {
	o.cred = dfs.Cred{UID: drawUID.Draw(rt, "uid"), GID: drawGID.Draw(rt, "gid")}
	if g := maybe(rt, drawGID, "group"); g != nil {
		o.cred.Groups = []uint32{*g}
	}
	o.cred.Checked = rapid.IntRange(0, 4).Draw(rt, "checked") == 0
	o.model.Cred = o.cred
	now := o.time()
	o.model.Now = now
	o.seq++
	c := Command{Session: o.session, Seq: o.seq, Acked: o.seq - min(o.seq, 2), Time: now, Cred: o.cred, Op: op}
	o.replay = append(o.replay, c)
	before := o.table.dumpBut(kindReply, kindTally)
	rep := o.apply(c)
	if rep.Errno != dfs.OK && !bytes.Equal(before, o.table.dumpBut(kindReply, kindTally)) {
		rt.Fatalf("%T was refused with %v and changed the table", op, rep.Errno)
	}
	return rep
}

// verdict compares a reply with what the model says.
func (o *oracle) verdict(what string, rep Reply, n *model.Node, errno dfs.Errno) {
	o.rt.Helper()
	if rep.Errno != errno {
		o.rt.Fatalf("%s: meta says %v, the model %v", what, rep.Errno, errno)
	}
	if rep.Errno != dfs.OK {
		return
	}
	if (rep.Attr == nil) != (n == nil) {
		o.rt.Fatalf("%s: meta answers %v, the model %v", what, rep.Attr, n)
	}
	if n != nil {
		o.attr(what, *rep.Attr, n)
	}
}

func (o *oracle) attr(what string, got dfs.Attr, n *model.Node) {
	o.rt.Helper()
	got.Change = 0
	if want := o.model.Attr(n); got != want {
		o.rt.Fatalf("%s: attributes differ\nmeta:  %+v\nmodel: %+v", what, got, want)
	}
}

func (o *oracle) create(rt *rapid.T) {
	ino := o.fresh
	if rapid.IntRange(0, 19).Draw(rt, "odd ino") == 0 {
		ino = rapid.SampledFrom(append(o.numbers(), 0, 5, 1<<40)).Draw(rt, "ino")
	}
	e := model.Entry{
		Parent: o.folder(rt, "parent"), Name: drawName.Draw(rt, "name"), Ino: ino,
		Mode: drawType.Draw(rt, "type") | drawMode.Draw(rt, "mode"), Excl: rapid.Bool().Draw(rt, "excl"),
		Umask: rapid.SampledFrom([]uint32{0, 0o022, 0o077}).Draw(rt, "umask"),
	}
	if k := e.Mode & dfs.TypeMask; k == dfs.TypeLink || rapid.IntRange(0, 19).Draw(rt, "odd target") == 0 {
		e.Target = rapid.SampledFrom([]string{"a", "/b/c", "", strings.Repeat("t", 4095), strings.Repeat("t", 4096)}).Draw(rt, "target")
	} else if k == dfs.TypeBlock || k == dfs.TypeChar {
		e.Rdev = rapid.Uint32Range(0, 1).Draw(rt, "rdev")
	}
	rep := o.run(rt, &Create{Parent: e.Parent, Name: e.Name, Ino: e.Ino, Mode: e.Mode, Rdev: e.Rdev, Target: e.Target, Excl: e.Excl, Umask: e.Umask})
	n, existed, errno := o.model.Create(e)
	o.verdict("create", rep, n, errno)
	if rep.Existed != existed {
		rt.Fatalf("create: existed %v, the model says %v", rep.Existed, existed)
	}
	if errno == dfs.OK && !existed && ino == o.fresh {
		o.fresh++
	}
}

func (o *oracle) tmpfile(rt *rapid.T) {
	e := model.Entry{
		Parent: o.folder(rt, "parent"), Ino: o.fresh, Mode: drawMode.Draw(rt, "mode"), Excl: rapid.IntRange(0, 3).Draw(rt, "excl") == 0,
		Umask: rapid.SampledFrom([]uint32{0, 0o022, 0o077}).Draw(rt, "umask"),
	}
	rep := o.run(rt, &Create{Parent: e.Parent, Ino: e.Ino, Mode: e.Mode, Excl: e.Excl, Umask: e.Umask, Tmpfile: true})
	n, errno := o.model.Tmpfile(e)
	o.verdict("tmpfile", rep, n, errno)
	if errno == dfs.OK {
		o.fresh++
	}
}

// setACL sets lists of which most are sound.
func (o *oracle) setACL(rt *rapid.T) {
	perm := func(label string) uint16 { return rapid.SampledFrom([]uint16{0, 1, 3, 4, 5, 6, 7, 7}).Draw(rt, label) }
	list := acl{{aclOwner, perm("owner"), 0}}
	if rapid.Bool().Draw(rt, "user?") {
		list = append(list, aclEntry{aclUser, perm("user"), drawUID.Draw(rt, "uid")})
	}
	list = append(list, aclEntry{aclGroup0, perm("group"), 0})
	if rapid.Bool().Draw(rt, "other group?") {
		list = append(list, aclEntry{aclGroup, perm("other group"), drawGID.Draw(rt, "gid")})
	}
	if len(list) > 2 || rapid.Bool().Draw(rt, "mask?") {
		list = append(list, aclEntry{aclMask, perm("mask"), 0})
	}
	list = append(list, aclEntry{aclOther, perm("others"), 0})
	if rapid.IntRange(0, 9).Draw(rt, "odd list") == 0 {
		i := rapid.IntRange(0, len(list)-1).Draw(rt, "without")
		list = append(list[:i:i], list[i+1:]...)
	}
	op := &SetXattr{
		Ino: o.ino(rt, "ino"), Name: rapid.SampledFrom([]string{dfs.XattrAccessACL, dfs.XattrDefaultACL}).Draw(rt, "name"), Value: list.encode(),
		Flags: rapid.SampledFrom([]uint32{0, 0, 0, 1, 2, dfs.XattrKillSetgid}).Draw(rt, "flags"),
	}
	if rapid.IntRange(0, 19).Draw(rt, "odd bytes") == 0 {
		op.Value = op.Value[:rapid.IntRange(0, len(op.Value)).Draw(rt, "bytes")]
	}
	rep := o.run(rt, op)
	n, errno := o.model.SetXattr(op.Ino, op.Name, string(op.Value), op.Flags)
	o.verdict("setxattr", rep, n, errno)
}

func (o *oracle) link(rt *rapid.T) {
	op := &Link{Ino: o.ino(rt, "ino"), Parent: o.folder(rt, "parent"), Name: drawName.Draw(rt, "name")}
	rep := o.run(rt, op)
	n, errno := o.model.Link(op.Ino, op.Parent, op.Name)
	o.verdict("link", rep, n, errno)
}

func (o *oracle) unlink(rt *rapid.T) {
	op := &Unlink{Parent: o.folder(rt, "parent"), Name: drawName.Draw(rt, "name")}
	rep := o.run(rt, op)
	o.verdict("unlink", rep, nil, o.model.Unlink(op.Parent, op.Name))
}

func (o *oracle) rmdir(rt *rapid.T) {
	op := &Rmdir{Parent: o.folder(rt, "parent"), Name: drawName.Draw(rt, "name")}
	rep := o.run(rt, op)
	o.verdict("rmdir", rep, nil, o.model.Rmdir(op.Parent, op.Name))
}

func (o *oracle) rename(rt *rapid.T) {
	op := &Rename{
		Parent: o.folder(rt, "parent"), Name: drawName.Draw(rt, "name"), NewParent: o.folder(rt, "new parent"), NewName: drawName.Draw(rt, "new name"),
		Flags:    rapid.SampledFrom([]uint32{0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 8}).Draw(rt, "flags"),
		Whiteout: o.fresh,
	}
	rep := o.run(rt, op)
	n, errno := o.model.Rename(op.Parent, op.Name, op.NewParent, op.NewName, op.Flags, op.Whiteout)
	o.verdict("rename", rep, n, errno)
	if o.model.Nodes[o.fresh] != nil {
		o.fresh++
	}
}

func (o *oracle) chmod(rt *rapid.T) {
	ino, mode := o.ino(rt, "ino"), drawMode.Draw(rt, "mode")
	rep := o.run(rt, &SetAttr{Ino: ino, Mode: &mode})
	n, errno := o.model.Chmod(ino, mode)
	o.verdict("chmod", rep, n, errno)
}

func (o *oracle) chown(rt *rapid.T) {
	ino, uid, gid := o.ino(rt, "ino"), maybe(rt, drawUID, "owner"), maybe(rt, drawGID, "group")
	rep := o.run(rt, &SetAttr{Ino: ino, UID: uid, GID: gid})
	n, errno := o.model.Chown(ino, uid, gid)
	o.verdict("chown", rep, n, errno)
}

func (o *oracle) truncate(rt *rapid.T) {
	ino, size, handle := o.ino(rt, "ino"), rapid.Uint64Range(0, 120).Draw(rt, "size"), rapid.Bool().Draw(rt, "handle")
	if n := o.model.Nodes[ino]; n != nil && len(n.Data) > 0 && rapid.Bool().Draw(rt, "by one") {
		size = uint64(len(n.Data)) - 1
	}
	rep := o.run(rt, &SetAttr{Ino: ino, Size: &size, Handle: handle})
	n, errno := o.model.Truncate(ino, size, handle)
	o.verdict("truncate", rep, n, errno)
}

func (o *oracle) utimens(rt *rapid.T) {
	op := &SetAttr{Ino: o.ino(rt, "ino")}
	set := func(label string) (t *dfs.Time, now bool) {
		switch rapid.IntRange(0, 2).Draw(rt, label) {
		case 0:
			v := drawTime(rt, label)
			return &v, false
		case 1:
			return nil, true
		}
		return nil, false
	}
	op.Atime, op.AtimeNow = set("atime")
	op.Mtime, op.MtimeNow = set("mtime")
	rep := o.run(rt, op)
	n, errno := o.model.Utimens(op.Ino, op.Atime, op.Mtime, op.AtimeNow, op.MtimeNow)
	o.verdict("utimens", rep, n, errno)
}

func (o *oracle) setXattr(rt *rapid.T) {
	op := &SetXattr{
		Ino: o.ino(rt, "ino"), Name: drawXattr.Draw(rt, "name"), Flags: rapid.Uint32Range(0, 3).Draw(rt, "flags"),
		Value: []byte(rapid.SampledFrom([]string{"", "v", "value", strings.Repeat("v", 65537)}).Draw(rt, "value")),
	}
	rep := o.run(rt, op)
	n, errno := o.model.SetXattr(op.Ino, op.Name, string(op.Value), op.Flags)
	o.verdict("setxattr", rep, n, errno)
}

func (o *oracle) removeXattr(rt *rapid.T) {
	op := &RemoveXattr{Ino: o.ino(rt, "ino"), Name: drawXattr.Draw(rt, "name")}
	rep := o.run(rt, op)
	n, errno := o.model.RemoveXattr(op.Ino, op.Name)
	o.verdict("removexattr", rep, n, errno)
}

func (o *oracle) getXattr(rt *rapid.T) {
	ino, name := o.ino(rt, "ino"), drawXattr.Draw(rt, "name")
	got, err := o.view().GetXattr(o.cred, ino, name)
	want, errno := o.model.GetXattr(ino, name)
	if errno.Err() != err || string(got) != want {
		rt.Fatalf("getxattr: meta says %q, %v, the model %q, %v", got, err, want, errno)
	}
}

func (o *oracle) lookup(rt *rapid.T) {
	parent, name := o.folder(rt, "parent"), drawName.Draw(rt, "name")
	got, err := o.view().Lookup(o.cred, parent, name)
	n, errno := o.model.Lookup(parent, name)
	if errno.Err() != err {
		rt.Fatalf("lookup: meta says %v, the model %v", err, errno)
	}
	if err == nil {
		o.attr("lookup", got, n)
	}
}

// commit writes one record, and gives pieces of it and of the one before to files.
func (o *oracle) commit(rt *rapid.T) {
	var targets []dfs.Ino
	for _, ino := range o.numbers() {
		if ino != dfs.RootIno && o.model.Nodes[ino].Mode&dfs.TypeMask == dfs.TypeFile {
			targets = append(targets, ino)
		}
	}
	targets = append(targets, 999)
	id, record, length := testChunk(o.chunk), o.end, rapid.Uint32Range(1, 60).Draw(rt, "record bytes")
	op := &Commit{}
	mtime := drawTime(rt, "mtime")
	mtime.Sec += 10 // zero would leave it alone
	for range rapid.IntRange(1, 3).Draw(rt, "files") {
		f := FileCommit{Ino: rapid.SampledFrom(targets).Draw(rt, "ino"), Mtime: mtime, SizeMin: rapid.Uint64Range(0, 90).Draw(rt, "size min")}
		for range rapid.IntRange(0, 4).Draw(rt, "extents") {
			e := dfs.Extent{Off: rapid.Uint64Range(0, 80).Draw(rt, "off"), Chunk: id, Record: record, RecordLen: length}
			if n := len(f.Extents); n > 0 && rapid.Bool().Draw(rt, "go on") {
				last := f.Extents[n-1]
				e.Off, e.Start, e.Record, e.RecordLen = last.End(), last.Start+last.Len, last.Record, last.RecordLen
			} else {
				e.Start = rapid.Uint32Range(0, length-1).Draw(rt, "start")
			}
			// A record that an earlier command committed may come in pieces too.
			if o.prev.Chunk == id && len(f.Extents) == 0 && rapid.Bool().Draw(rt, "earlier record") {
				e.Record, e.RecordLen = o.prev.Record, o.prev.RecordLen
				e.Start = min(e.Start, e.RecordLen-1)
				if rapid.Bool().Draw(rt, "at the end of the last piece") {
					e.Off, e.Start = o.prev.End(), o.prev.Start+o.prev.Len
				}
			}
			if e.Start >= e.RecordLen {
				continue
			}
			e.Len = rapid.Uint32Range(1, e.RecordLen-e.Start).Draw(rt, "len")
			f.Extents = append(f.Extents, e)
		}
		op.Files = append(op.Files, f)
		if n := len(f.Extents); n > 0 {
			o.prev = f.Extents[n-1]
		}
	}
	o.end += 2 * dfs.PageBytes
	sealed := rapid.IntRange(0, 3).Draw(rt, "seal") == 0
	op.Chunks = []ChunkCommit{{Chunk: id, Committed: o.end, Servers: allThree(), Sealed: sealed}}
	rep := o.run(rt, op)
	if rep.Errno != dfs.OK || rep.StaleMap {
		rt.Fatalf("commit: %+v", rep)
	}
	if sealed {
		o.chunk, o.end = o.chunk+1, firstRecord
		if o.chunk > chunksGrant {
			o.do(&GrantIDs{Chunks: true})
		}
	}
	var skipped []dfs.Ino
	for _, f := range op.Files {
		if o.model.Nodes[f.Ino] == nil {
			skipped = append(skipped, f.Ino)
			continue
		}
		o.model.Write(f.Ino, 0, nil, f.SizeMin, mtime)
		for _, e := range f.Extents {
			o.model.Write(f.Ino, e.Off, cells(e), 0, mtime)
		}
	}
	if !slices.Equal(rep.Skipped, skipped) {
		rt.Fatalf("commit skipped %v, the model %v", rep.Skipped, skipped)
	}
}

// cells is the content that an extent brings.
func cells(e dfs.Extent) []model.Cell {
	list := make([]model.Cell, e.Len)
	for i := range list {
		list[i] = model.Cell{Chunk: e.Chunk, Record: e.Record, Pos: e.Start + uint32(i)}
	}
	return list
}

func (o *oracle) reap(rt *rapid.T) {
	list := o.model.Orphans()
	if len(list) == 0 {
		return
	}
	ino := rapid.SampledFrom(list).Draw(rt, "orphan")
	most := rapid.Uint32Range(0, 3).Draw(rt, "extents")
	for range 1000 {
		rep := o.own(&Reap{Inodes: []dfs.Ino{ino, dfs.RootIno}, ExtentsMax: most})
		o.check()
		if !rep.More {
			if !slices.Equal(rep.Reaped, []dfs.Ino{ino}) {
				rt.Fatalf("reaped %v, not %d", rep.Reaped, ino)
			}
			o.model.Reap(ino)
			return
		}
	}
	rt.Fatalf("reap of %d does not end", ino)
}

func (o *oracle) drop(rt *rapid.T) {
	list, err := o.view().Droppable(0, 100)
	if err != nil {
		rt.Fatalf("droppable: %v", err)
	}
	all, err := o.view().Chunks(0, 1000)
	if err != nil {
		rt.Fatalf("chunks: %v", err)
	}
	var want, ids []dfs.ChunkID
	for _, c := range all {
		ids = append(ids, c.ID)
		if c.Sealed && c.Live == 0 {
			want = append(want, c.ID)
		}
	}
	if !slices.Equal(list, want) {
		rt.Fatalf("droppable: %v, want %v", list, want)
	}
	if rep := o.own(&DropChunks{Chunks: ids}); !slices.Equal(rep.Dropped, want) {
		rt.Fatalf("dropped: %v, want %v", rep.Dropped, want)
	}
	if got, err := o.view().Deletable(0, append(ids, testChunk(o.chunk))); err != nil || !slices.Equal(got, want) {
		rt.Fatalf("deletable: %v, %v, want %v", got, err, want)
	}
}

// retry repeats an earlier command: it is answered as before or refused as a
// duplicate, and changes nothing.
func (o *oracle) retry(rt *rapid.T) {
	if len(o.replay) == 0 {
		return
	}
	c := rapid.SampledFrom(o.replay[max(0, len(o.replay)-4):]).Draw(rt, "command")
	before := o.table.dump()
	rep := o.apply(c)
	if !rep.Replayed && !rep.Duplicate {
		rt.Fatalf("command %d was carried out twice", c.Seq)
	}
	if !bytes.Equal(before, o.table.dump()) {
		rt.Fatalf("repeating command %d changed the table", c.Seq)
	}
}

// compare looks at everything that can be seen.
func (o *oracle) compare(rt *rapid.T) {
	v := o.view()
	o.check()
	for _, ino := range o.numbers() {
		n := o.model.Nodes[ino]
		what := fmt.Sprintf("inode %d", ino)
		got, err := v.GetAttr(ino)
		if err != nil {
			rt.Fatalf("%s: %v", what, err)
		}
		o.changed(what, got)
		o.attr(what, got, n)
		o.model.Cred, o.cred = dfs.Cred{}, dfs.Cred{}
		names, err := v.ListXattr(o.cred, ino)
		if err != nil || !slices.Equal(names, o.model.ListXattr(ino)) {
			rt.Fatalf("%s: xattrs %q, %v, the model has %q", what, names, err, o.model.ListXattr(ino))
		}
		switch n.Mode & dfs.TypeMask {
		case dfs.TypeDir:
			o.compareListing(rt, what, n)
		case dfs.TypeLink:
			if target, err := v.Readlink(ino); err != nil || target != n.Target {
				rt.Fatalf("%s: target %q, %v", what, target, err)
			}
		case dfs.TypeFile:
			if content := o.content(rt, got); !slices.Equal(content, n.Data) {
				rt.Fatalf("%s: content differs\nmeta:  %v\nmodel: %v", what, content, n.Data)
			}
		}
	}
	orphans, err := v.Orphans(0, 1000)
	if err != nil || !slices.Equal(orphans, o.model.Orphans()) {
		rt.Fatalf("orphans: %v, %v, the model has %v", orphans, err, o.model.Orphans())
	}
	if c, err := v.Counters(); err != nil || c.Inodes != uint64(len(o.model.Nodes)) || c.Orphans != uint64(len(orphans)) {
		rt.Fatalf("counters: %+v, %v, the model has %d inodes", c, err, len(o.model.Nodes))
	}
}

// changed: the Change counter grows with every change of an inode.
func (o *oracle) changed(what string, a dfs.Attr) {
	old, seen := o.last[a.Ino]
	o.last[a.Ino] = a
	if !seen || old == a {
		return
	}
	if a.Change <= old.Change {
		o.rt.Fatalf("%s: changed from %+v to %+v", what, old, a)
	}
}

func (o *oracle) compareListing(rt *rapid.T, what string, n *model.Node) {
	got := make(map[string]dfs.Ino)
	limit := rapid.IntRange(1, 5).Draw(rt, "limit")
	var cookie uint64
	for {
		l, err := o.view().ReadDir(dfs.Cred{}, n.Ino, cookie, limit, true)
		if err != nil || len(l.Entries) > limit || l.Parent != n.Parent.Ino {
			rt.Fatalf("%s: listing: %+v, %v", what, l, err)
		}
		for _, e := range l.Entries {
			if _, twice := got[e.Name]; twice || e.Cookie <= cookie || e.Cookie < cookieMin {
				rt.Fatalf("%s: entry %+v after cookie %d", what, e, cookie)
			}
			got[e.Name], cookie = e.Ino, e.Cookie
			if e.Attr.Ino != e.Ino || e.Attr.Type() != e.Type {
				rt.Fatalf("%s: entry %+v", what, e)
			}
		}
		if l.End {
			break
		}
	}
	want := make(map[string]dfs.Ino)
	for name, child := range n.Children {
		want[name] = child.Ino
	}
	if !reflect.DeepEqual(got, want) {
		rt.Fatalf("%s: listing %v, the model has %v", what, got, want)
	}
}

// content reads a file through its extents.
func (o *oracle) content(rt *rapid.T, a dfs.Attr) []model.Cell {
	var data []model.Cell
	if a.Size > 0 {
		data = make([]model.Cell, a.Size)
	}
	var off uint64
	for {
		list, more, err := o.view().Extents(a.Ino, off, 2)
		if err != nil {
			rt.Fatalf("extents of %d: %v", a.Ino, err)
		}
		for _, e := range list {
			if e.End() > a.Size || e.End() <= off {
				rt.Fatalf("extent %+v of %d after %d", e, a.Ino, off)
			}
			copy(data[e.Off:], cells(e))
			off = e.End()
		}
		if !more {
			return data
		}
	}
}
