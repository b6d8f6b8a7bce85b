package meta

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"dfs"
)

// TestTranscripts runs testdata/*.txt: "new" begins an empty table, "fs" a
// bootstrapped one with three servers and a session, "do" carries out one command
// a line. Commands and their arguments are the cases of script.line.
func TestTranscripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			s := &script{}
			datadriven.RunTest(t, path, s.directive)
		})
	}
}

type script struct {
	*bench
	fresh dfs.Ino
	given []Command // to be repeated
}

func (s *script) directive(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "new":
		s.bench = &bench{t: t, table: newMemTable(), hash: hashName, now: 100}
	case "fs":
		s.bench = newBench(t)
		s.now = 2000
	case "do":
		s.t = t
		var out strings.Builder
		for line := range strings.Lines(d.Input) {
			if line = strings.TrimSpace(line); line != "" {
				fmt.Fprintf(&out, "%s: %s\n", line, s.line(line))
			}
		}
		s.check()
		return out.String()
	default:
		d.Fatalf(t, "unknown directive %s", d.Cmd)
	}
	s.fresh, s.given = dfs.FirstIno, nil
	return "ok"
}

// args is the rest of a line: words, and values of NAME=VALUE.
type args struct {
	words  []string
	values map[string]string
}

func (a *args) has(word string) bool { return slices.Contains(a.words, word) }

func (a *args) num(i int) uint64 {
	if i >= len(a.words) {
		return 0
	}
	return num(a.words[i])
}

func (a *args) value(name string, otherwise uint64) uint64 {
	if v, ok := a.values[name]; ok {
		return num(v)
	}
	return otherwise
}

func num(s string) uint64 {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		panic(err)
	}
	return n
}

var repeated = regexp.MustCompile(`(\w)\*(\d+)`)

func parseArgs(fields []string) *args {
	a := &args{values: make(map[string]string)}
	for _, f := range fields {
		if name, value, ok := strings.Cut(f, "="); ok && !strings.HasPrefix(f, "copies=") && !strings.HasPrefix(f, "ec=") && !strings.Contains(name, "/") {
			a.values[name] = value
			continue
		}
		// n*256 is 256 times n
		a.words = append(a.words, repeated.ReplaceAllStringFunc(f, func(m string) string {
			g := repeated.FindStringSubmatch(m)
			return strings.Repeat(g[1], int(num(g[2])))
		}))
	}
	return a
}

// at finds what a path names, without permission checks and without following
// the last symlink; #N is inode N.
func (s *script) at(path string) dfs.Ino {
	parent, name := s.split(path)
	if name == "" {
		return parent
	}
	a, err := s.view().Lookup(dfs.Cred{Checked: true}, parent, name)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", path, err))
	}
	return a.Ino
}

func (s *script) split(path string) (parent dfs.Ino, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 { // #N
		return dfs.Ino(num(path[1:])), ""
	}
	if i == 0 {
		return dfs.RootIno, path[1:]
	}
	return s.at(path[:i]), path[i+1:]
}

// ask is a command of the session and its reply.
func (s *script) ask(a *args, op Op) string {
	seq := a.value("seq", s.seq+1)
	s.seq = max(s.seq, seq)
	c := Command{
		Session: dfs.SessionID(a.value("session", uint64(s.session))), Seq: seq, Acked: a.value("acked", max(s.seq, 4)-4),
		Time: s.time(), Cred: s.cred, Op: op,
	}
	if c.Session == 0 {
		c.Seq, c.Acked = 0, 0
	}
	s.given = append(s.given, c)
	return s.reply(s.apply(c))
}

// order is a command of the masters.
func (s *script) order(op Op) string {
	return s.reply(s.apply(Command{Time: s.time(), Cred: s.cred, Op: op}))
}

var errnoNames = map[dfs.Errno]string{
	dfs.EPERM: "EPERM", dfs.ENOENT: "ENOENT", dfs.ENXIO: "ENXIO", dfs.E2BIG: "E2BIG", dfs.EAGAIN: "EAGAIN", dfs.EACCES: "EACCES",
	dfs.EBUSY: "EBUSY", dfs.EEXIST: "EEXIST", dfs.ENOTDIR: "ENOTDIR", dfs.EISDIR: "EISDIR", dfs.EINVAL: "EINVAL", dfs.EFBIG: "EFBIG",
	dfs.ENOSPC: "ENOSPC", dfs.EMLINK: "EMLINK", dfs.ERANGE: "ERANGE", dfs.ENAMETOOLONG: "ENAMETOOLONG", dfs.ENOTEMPTY: "ENOTEMPTY",
	dfs.ELOOP: "ELOOP", dfs.ENODATA: "ENODATA", dfs.EOPNOTSUPP: "EOPNOTSUPP", dfs.ESTALE: "ESTALE",
}

func verdictOf(err error) string {
	var e dfs.Errno
	if !errors.As(err, &e) {
		return "FAILURE " + err.Error()
	}
	return errnoNames[e]
}

func (s *script) reply(r Reply) string {
	var out []string
	add := func(yes bool, format string, v ...any) {
		if yes {
			out = append(out, fmt.Sprintf(format, v...))
		}
	}
	add(r.Replayed, "replayed")
	add(r.Duplicate, "duplicate")
	add(r.Expired, "expired")
	add(r.StaleMap, "stale map")
	add(r.Errno != 0, "%s", errnoNames[r.Errno])
	add(r.Existed, "existed")
	add(r.Session != 0, "session=%s", r.Session)
	add(r.Inodes != Range{}, "inodes=%d-%d", r.Inodes.From, r.Inodes.To)
	add(r.Chunks != Range{}, "chunks=%d-%d", r.Chunks.From, r.Chunks.To)
	if r.Attr != nil {
		out = append(out, short(*r.Attr))
	}
	add(r.Orphaned != nil, "orphaned=%d", r.Orphaned)
	add(r.Skipped != nil, "skipped=%d", r.Skipped)
	add(r.Reaped != nil, "reaped=%d", r.Reaped)
	add(r.Dropped != nil, "dropped=%v", seqs(r.Dropped))
	add(r.More, "more")
	add(r.Epoch != 0, "epoch=%d", r.Epoch)
	add(r.Token != 0, "token=%d", r.Token)
	if out == nil {
		return "ok"
	}
	return strings.Join(out, " ")
}

func short(a dfs.Attr) string {
	return fmt.Sprintf("#%d %06o nlink=%d %d:%d size=%d", a.Ino, a.Mode, a.Nlink, a.UID, a.GID, a.Size)
}

func seqs(ids []dfs.ChunkID) []uint64 {
	list := []uint64{}
	for _, id := range ids {
		list = append(list, id.Seq())
	}
	return list
}

func chunkList(words []string) (ids []dfs.ChunkID) {
	for _, w := range words {
		ids = append(ids, testChunk(num(w)))
	}
	return ids
}

func (s *script) line(line string) (out string) {
	defer func() {
		if r := recover(); r != nil {
			out = fmt.Sprint("script: ", r)
		}
	}()
	fields := strings.Fields(line)
	a := parseArgs(fields[1:])
	w := append(slices.Clone(a.words), "", "", "", "")
	if out, ok := s.change(fields[0], a, w); ok {
		return out
	}
	if out, ok := s.admin(fields[0], a, w); ok {
		return out
	}
	return s.look(fields[0], a, w)
}

// change is what programs do to the namespace.
func (s *script) change(cmd string, a *args, w []string) (string, bool) {
	switch cmd {
	case "as": // UID GID GROUP... [checked]
		s.cred = dfs.Cred{UID: uint32(a.num(0)), GID: uint32(a.num(1)), Checked: a.has("checked")}
		for _, g := range a.words[2:] {
			if g != "checked" {
				s.cred.Groups = append(s.cred.Groups, uint32(num(g)))
			}
		}
		return "ok", true
	case "create", "mkdir", "fifo", "char", "block", "symlink": // PATH MODE|TARGET [excl] [ino=N] [rdev=N]
		kind := map[string]uint32{"mkdir": dfs.TypeDir, "fifo": dfs.TypeFIFO, "char": dfs.TypeChar, "block": dfs.TypeBlock,
			"symlink": dfs.TypeLink, "create": dfs.TypeFile}[cmd]
		op := &Create{Ino: dfs.Ino(a.value("ino", uint64(s.fresh))), Excl: a.has("excl"), Rdev: uint32(a.value("rdev", 0))}
		op.Parent, op.Name = s.split(w[0])
		if op.Mode = kind; cmd == "symlink" {
			op.Target = w[1]
		} else {
			op.Mode |= uint32(a.num(1))
		}
		out := s.ask(a, op)
		if in, _ := s.view().inode(s.fresh); in != nil {
			s.fresh++
		}
		return out, true
	case "link": // PATH NEW
		op := &Link{Ino: s.at(w[0])}
		op.Parent, op.Name = s.split(w[1])
		return s.ask(a, op), true
	case "unlink":
		op := &Unlink{}
		op.Parent, op.Name = s.split(w[0])
		return s.ask(a, op), true
	case "rmdir":
		op := &Rmdir{}
		op.Parent, op.Name = s.split(w[0])
		return s.ask(a, op), true
	case "rename": // PATH NEW [noreplace] [exchange] [flags=N]
		op := &Rename{Flags: uint32(a.value("flags", 0))}
		op.Parent, op.Name = s.split(w[0])
		op.NewParent, op.NewName = s.split(w[1])
		if a.has("noreplace") {
			op.Flags |= dfs.RenameNoReplace
		}
		if a.has("exchange") {
			op.Flags |= dfs.RenameExchange
		}
		return s.ask(a, op), true
	case "setattr": // PATH [mode=] [uid=] [gid=] [size=] [atime=N|now] [mtime=N|now] [handle] [killsuid]
		return s.ask(a, s.setAttr(a, w)), true
	case "setxattr": // PATH NAME [value=V] [bytes=N] [create] [replace] [flags=N]
		op := &SetXattr{Ino: s.at(w[0]), Name: w[1], Value: []byte(a.values["value"]), Flags: uint32(a.value("flags", 0))}
		op.Value = append(op.Value, make([]byte, a.value("bytes", 0))...)
		if a.has("create") {
			op.Flags |= dfs.XattrCreate
		}
		if a.has("replace") {
			op.Flags |= dfs.XattrReplace
		}
		return s.ask(a, op), true
	case "rmxattr":
		return s.ask(a, &RemoveXattr{Ino: s.at(w[0]), Name: w[1]}), true
	case "commit":
		return s.ask(a, s.commit(a)), true
	case "lock": // PATH|@NAME file|bytes|name shared|alone|none OWNER [START END] [file=N] [refuse]
		return s.ask(a, setLock(s, a)), true
	case "closed": // PATH FILE
		return s.ask(a, &SetLock{Ino: s.at(w[0]), Closed: true, Lock: dfs.Lock{File: uint64(a.num(1))}}), true
	case "policy": // PATH LAYOUT
		l, err := dfs.ParseLayout(w[1])
		if err != nil {
			l = dfs.Layout(num(w[1]))
		}
		return s.ask(a, &SetPolicy{Ino: s.at(w[0]), Layout: l}), true
	}
	return "", false
}

func (s *script) setAttr(a *args, w []string) *SetAttr {
	op := &SetAttr{Ino: s.at(w[0]), Handle: a.has("handle"), KillSuid: a.has("killsuid")}
	for name, p := range map[string]**uint32{"mode": &op.Mode, "uid": &op.UID, "gid": &op.GID} {
		if v, ok := a.values[name]; ok {
			n := uint32(num(v))
			*p = &n
		}
	}
	if v, ok := a.values["size"]; ok {
		n := num(v)
		op.Size = &n
	}
	set := func(v string, p **dfs.Time, now *bool) {
		if *now = v == "now"; v != "" && v != "now" {
			sec, nsec, _ := strings.Cut(v, ".")
			n, _ := strconv.ParseUint(nsec, 10, 32)
			*p = &dfs.Time{Sec: int64(num(sec)), Nsec: uint32(n)}
		}
	}
	set(a.values["atime"], &op.Atime, &op.AtimeNow)
	set(a.values["mtime"], &op.Mtime, &op.MtimeNow)
	return op
}

// commit reads chunk:SEQ:COMMITTED:SERVERS[:sealed] and
// PATH:OFF+LEN@RECORD/RECORDLEN+START,... and size=N, mtime=N, killsuid for all
// files; extents are of the last chunk before them, or of chunk=SEQ.
func (s *script) commit(a *args) *Commit {
	op := &Commit{}
	id := testChunk(a.value("chunk", 0))
	for _, word := range a.words {
		p := strings.Split(word, ":")
		switch {
		case word == "killsuid":
		case p[0] == "chunk":
			cc := ChunkCommit{Chunk: testChunk(num(p[1])), Committed: uint32(num(p[2])), Sealed: len(p) > 4}
			for _, id := range strings.Split(p[3], ",") {
				cc.Servers = append(cc.Servers, dfs.NodeID(num(id)))
			}
			op.Chunks = append(op.Chunks, cc)
			if a.values["chunk"] == "" {
				id = cc.Chunk
			}
		default:
			f := FileCommit{Ino: s.at(p[0]), SizeMin: a.value("size", 0), KillSuid: a.has("killsuid"), Mtime: dfs.Time{Sec: int64(a.value("mtime", 0))}}
			for _, word := range strings.Split(p[1], ",") {
				e := dfs.Extent{Chunk: id}
				if _, err := fmt.Sscanf(word, "%d+%d@%d/%d+%d", &e.Off, &e.Len, &e.Record, &e.RecordLen, &e.Start); err == nil {
					f.Extents = append(f.Extents, e)
				} else if word != "" {
					panic(fmt.Sprintf("extent %q: %v", word, err))
				}
			}
			op.Files = append(op.Files, f)
		}
	}
	return op
}

// admin is sessions, the masters' commands and retries.
func (s *script) admin(cmd string, a *args, w []string) (string, bool) {
	switch cmd {
	case "bootstrap": // cluster=N buckets=N
		return s.order(&Bootstrap{Cluster: dfs.ClusterID(a.value("cluster", 0)), Buckets: uint32(a.value("buckets", 0))}), true
	case "open": // NONCE [host=H]
		return s.order(&OpenSession{Nonce: a.num(0), Host: a.values["host"], Mountpoint: "/mnt", Version: "1"}), true
	case "use": // SESSION SEQ: the next commands are of this session
		s.session, s.seq, s.given = dfs.SessionID(a.num(0)), a.num(1), nil
		return "ok", true
	case "fresh": // INO: the next creates take it
		s.fresh = dfs.Ino(a.num(0))
		return "ok", true
	case "close":
		return s.order(&CloseSession{Session: dfs.SessionID(a.num(0))}), true
	case "leave": // SESSION: as a command of the session
		return s.ask(a, &CloseSession{Session: dfs.SessionID(a.num(0))}), true
	case "grant": // [inodes] [chunks]
		return s.ask(a, &GrantIDs{Inodes: a.has("inodes"), Chunks: a.has("chunks")}), true
	case "repeat": // SEQ: the command with that sequence again
		for _, c := range s.given {
			if c.Seq == a.num(0) {
				return s.reply(s.apply(c)), true
			}
		}
		return "there is none", true
	case "reap": // INO... [max=N]
		op := &Reap{ExtentsMax: uint32(a.value("max", 0))}
		for _, word := range a.words {
			op.Inodes = append(op.Inodes, dfs.Ino(num(word)))
		}
		return s.order(op), true
	case "drop":
		return s.order(&DropChunks{Chunks: chunkList(a.words)}), true
	case "putmap": // epoch=N [ID:NAME:STATE]... [LAYOUT/BUCKET:ID,ID,...]...
		return s.order(parsePutMap(a)), true
	case "master": // ID NAME ADDR
		return s.order(&PutMaster{ID: dfs.NodeID(a.num(0)), Name: w[1], Addr: w[2]}), true
	case "rmmaster":
		return s.order(&RemoveMaster{ID: dfs.NodeID(a.num(0))}), true
	}
	return "", false
}

func setLock(s *script, a *args) *SetLock {
	op := &SetLock{Refuse: a.has("refuse"), Lock: dfs.Lock{
		Kind:  map[string]dfs.LockKind{"file": dfs.LockFile, "bytes": dfs.LockBytes, "name": dfs.LockName}[a.words[1]],
		Type:  map[string]dfs.LockType{"shared": dfs.LockShared, "alone": dfs.LockAlone, "none": dfs.Unlocked}[a.words[2]],
		Owner: uint64(a.num(3)), File: a.value("file", 0), End: dfs.LockEnd,
	}}
	if name, is := strings.CutPrefix(a.words[0], "@"); is {
		op.Ino, op.Lock.Name = dfs.LockNameIno(name), name
	} else {
		op.Ino = s.at(a.words[0])
	}
	if len(a.words) > 4 {
		op.Lock.Start, op.Lock.End = uint64(a.num(4)), uint64(a.num(5))
	}
	return op
}

func parsePutMap(a *args) *PutMap {
	op := &PutMap{Epoch: dfs.Epoch(a.value("epoch", 0))}
	for _, word := range a.words {
		p := strings.Split(word, ":")
		if layout, bucket, ok := strings.Cut(p[0], "/"); ok {
			l, err := dfs.ParseLayout(layout)
			if err != nil {
				panic(err)
			}
			h := Home{PG: dfs.MakePG(l, uint16(num(bucket)))}
			for _, id := range strings.Split(p[1], ",") {
				h.Servers = append(h.Servers, dfs.NodeID(num(id)))
			}
			op.Acting = append(op.Acting, h)
			continue
		}
		states := map[string]dfs.ServerState{"up": dfs.ServerUp, "down": dfs.ServerDown, "drain": dfs.ServerDrain, "gone": dfs.ServerGone}
		op.Servers = append(op.Servers, dfs.Server{ID: dfs.NodeID(num(p[0])), Name: p[1], State: states[p[2]]})
	}
	return op
}

// look is what views answer.
func (s *script) look(cmd string, a *args, w []string) string {
	v := s.view()
	switch cmd {
	case "stat":
		at, err := v.GetAttr(s.at(w[0]))
		if err != nil {
			return verdictOf(err)
		}
		return fmt.Sprintf("%s alloc=%d rdev=%d %s change=%d atime=%d.%d mtime=%d.%d ctime=%d.%d btime=%d.%d", short(at), at.Alloc, at.Rdev, at.Layout,
			at.Change, at.Atime.Sec, at.Atime.Nsec, at.Mtime.Sec, at.Mtime.Nsec, at.Ctime.Sec, at.Ctime.Nsec, at.Btime.Sec, at.Btime.Nsec)
	case "lookup":
		parent, name := s.split(w[0])
		at, err := v.Lookup(s.cred, parent, name)
		if err != nil {
			return verdictOf(err)
		}
		return short(at)
	case "resolve":
		at, err := v.Resolve(s.cred, w[0])
		if err != nil {
			return verdictOf(err)
		}
		return short(at)
	case "access": // PATH MASK
		if err := v.Access(s.cred, s.at(w[0]), uint32(a.num(1))); err != nil {
			return verdictOf(err)
		}
		return "ok"
	case "readlink":
		target, err := v.Readlink(s.at(w[0]))
		if err != nil {
			return verdictOf(err)
		}
		return target
	case "ls": // PATH [limit=N]: page by page
		return s.ls(w[0], int(a.value("limit", 1000)))
	case "getxattr":
		value, err := v.GetXattr(s.cred, s.at(w[0]), w[1])
		if err != nil {
			return verdictOf(err)
		}
		return fmt.Sprintf("%q", value)
	case "listxattr":
		names, err := v.ListXattr(s.cred, s.at(w[0]))
		if err != nil {
			return verdictOf(err)
		}
		return fmt.Sprintf("%q", names)
	case "extents": // PATH [off=N] [limit=N]
		list, more, err := v.Extents(s.at(w[0]), a.value("off", 0), int(a.value("limit", 1000)))
		if err != nil {
			return verdictOf(err)
		}
		out := "none"
		for i, e := range list {
			if i == 0 {
				out = ""
			}
			out += fmt.Sprintf("[%d+%d chunk %d @%d/%d+%d]", e.Off, e.Len, e.Chunk.Seq(), e.Record, e.RecordLen, e.Start)
		}
		if more {
			out += " more"
		}
		return out
	}
	return s.lookAdmin(cmd, a)
}

func (s *script) ls(path string, limit int) string {
	var out []string
	var cookie uint64
	for {
		l, err := s.view().ReadDir(s.cred, s.at(path), cookie, limit, false)
		if err != nil {
			return verdictOf(err)
		}
		if len(out) > 10000 {
			return "the listing does not end"
		}
		for _, e := range l.Entries {
			out = append(out, fmt.Sprintf("%s=%d", e.Name, e.Ino))
			cookie = e.Cookie
		}
		if l.End {
			return fmt.Sprintf("%s (parent %d)", strings.Join(out, " "), l.Parent)
		}
		out = append(out, "|")
	}
}

func (s *script) lookAdmin(cmd string, a *args) string {
	v := s.view()
	var out any
	var err error
	switch cmd {
	case "chunk":
		var c Chunk
		var ok bool
		if c, ok, err = v.Chunk(testChunk(a.num(0))); !ok && err == nil {
			return "none"
		}
		return fmt.Sprintf("present=%b committed=%d live=%d sealed=%v owner=%s", c.Present, c.Committed, c.Live, c.Sealed, c.Owner)
	case "droppable":
		var ids []dfs.ChunkID
		ids, err = v.Droppable(0, 100)
		out = seqs(ids)
	case "deletable":
		var ids []dfs.ChunkID
		ids, err = v.Deletable(0, chunkList(a.words))
		out = seqs(ids)
	case "orphans":
		out, err = v.Orphans(0, 100)
	case "sessions":
		out, err = v.Sessions()
	case "masters":
		out, err = v.Masters()
	case "locks":
		held, err := v.Locks(0, 100)
		if err != nil {
			return verdictOf(err)
		}
		text := "none"
		for i, h := range held {
			if i == 0 {
				text = ""
			}
			what := fmt.Sprint(h.Ino)
			if h.Name != "" {
				what = fmt.Sprintf("@%s token=%d", h.Name, h.Token)
			}
			text += fmt.Sprintf("[%s session=%s kind=%d type=%d owner=%d file=%d %d-%d]", what, h.Session, h.Kind, h.Type, h.Owner, h.File, h.Start, h.End)
		}
		return text
	case "layouts":
		out, err = v.Layouts()
	case "counters":
		out, err = v.Counters()
	case "map":
		m, err := v.Map()
		if err != nil {
			return verdictOf(err)
		}
		text := fmt.Sprintf("cluster %s epoch %d buckets %d", m.Cluster, m.Epoch, m.Buckets)
		for _, srv := range m.Servers {
			text += fmt.Sprintf(" %d:%s:%s", srv.ID, srv.Name, srv.State)
		}
		var pgs []dfs.PG
		for pg := range m.Home {
			pgs = append(pgs, pg)
		}
		slices.Sort(pgs)
		for _, pg := range pgs {
			text += fmt.Sprintf(" %s home=%d acting=%d", pg, m.Home[pg], m.Acting[pg])
		}
		return text
	default:
		return "unknown command"
	}
	if err != nil {
		return verdictOf(err)
	}
	return fmt.Sprintf("%+v", out)
}
