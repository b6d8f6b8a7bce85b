package meta

import (
	"cmp"
	"fmt"
	"slices"

	"dfs"
)

// Problem is something that a sound table cannot hold.
type Problem struct {
	Ino   dfs.Ino     // 0 when it is about no inode
	Chunk dfs.ChunkID // 0 when it is about no chunk
	Text  string
}

func (p Problem) String() string {
	switch {
	case p.Ino != 0:
		return fmt.Sprintf("inode %d: %s", p.Ino, p.Text)
	case p.Chunk != 0:
		return fmt.Sprintf("chunk %s: %s", p.Chunk, p.Text)
	}
	return p.Text
}

// ProblemsMax is how many problems Check answers at most.
const ProblemsMax = 1000

// Check reads the whole table and answers what is wrong with it: rows that
// contradict each other, or that cannot be read. It keeps about 100 bytes for each
// inode in memory, and as much for each chunk.
func Check(r Reader) []Problem { return check(NewView(r)) }

// facts is what other rows say of an inode, and what its own row says. There is one for each
// inode, so it is small and has no pointers.
type facts struct {
	ino, parent, body dfs.Ino // body as in the row: 0 is its own number
	size, has         uint64  // has: bytes in extents, by the row
	alloc, end        uint64  // by its extents

	mode, nlink, flags, xattrBytes uint32
	names, entries, sub            uint32
	xattrs, wants                  uint32 // wants: flags that its xattrs call for
	orphan, reached                bool   // reached: a walk up from here ends at the root
}

func (f *facts) is(kind uint32) bool { return f.mode&dfs.TypeMask == kind }

// factsSlab is how many of them are allocated at once, so that a table which grows is not copied.
const factsSlab = 4096

// factTable is the facts of all inodes in order of their numbers.
type factTable struct {
	slabs [][]facts
	last  *facts // that was found last: rows of one inode lie together
}

// add takes the next one.
func (t *factTable) add(f facts) {
	if n := len(t.slabs); n == 0 || len(t.slabs[n-1]) == factsSlab {
		t.slabs = append(t.slabs, make([]facts, 0, factsSlab))
	}
	at := &t.slabs[len(t.slabs)-1]
	*at = append(*at, f)
}

// get finds an inode's; nil when it has no row.
func (t *factTable) get(ino dfs.Ino) *facts {
	if t.last != nil && t.last.ino == ino {
		return t.last
	}
	i, found := slices.BinarySearchFunc(t.slabs, ino, func(s []facts, ino dfs.Ino) int { return cmp.Compare(s[0].ino, ino) })
	if !found {
		i--
	}
	if i < 0 {
		return nil
	}
	j, found := slices.BinarySearchFunc(t.slabs[i], ino, func(f facts, ino dfs.Ino) int { return cmp.Compare(f.ino, ino) })
	if !found {
		return nil
	}
	t.last = &t.slabs[i][j]
	return t.last
}

// each calls fn for all.
func (t *factTable) each(fn func(*facts)) {
	for _, slab := range t.slabs {
		for i := range slab {
			fn(&slab[i])
		}
	}
}

func (t *factTable) len() int {
	if len(t.slabs) == 0 {
		return 0
	}
	return (len(t.slabs)-1)*factsSlab + len(t.slabs[len(t.slabs)-1])
}

type checker struct {
	v        View
	inodes   factTable
	bodies   map[uint64]dfs.Ino // of inodes that keep their extents under another number
	chunks   map[dfs.ChunkID]*chunk
	live     map[dfs.ChunkID]uint64
	groups   map[dfs.PG]uint64
	sessions map[dfs.SessionID]*Session
	sum      counts
	problems []Problem
}

func (c *checker) report(p Problem, format string, args ...any) {
	if len(c.problems) < ProblemsMax {
		p.Text = fmt.Sprintf(format, args...)
		c.problems = append(c.problems, p)
	}
}

func (c *checker) ino(ino dfs.Ino, format string, args ...any) {
	c.report(Problem{Ino: ino}, format, args...)
}

func (c *checker) chunk(id dfs.ChunkID, format string, args ...any) {
	c.report(Problem{Chunk: id}, format, args...)
}

func (c *checker) other(format string, args ...any) {
	c.report(Problem{}, format, args...)
}

// each calls fn for all rows of a kind; what fn cannot read is a problem.
func (c *checker) each(kind byte, numbers int, fn func(k, b []byte) error) {
	err := c.v.r.Scan(key0(kind), key0(kind+1), func(k, b []byte) (bool, error) {
		if len(k) < 1+8*numbers || kind != kindXattr && kind != kindSetting && len(k) != 1+8*numbers {
			c.other("key %x has the wrong length", k)
			return true, nil
		}
		if err := fn(k, b); err != nil {
			c.other("key %x: %v", k, err)
		}
		return len(c.problems) < ProblemsMax, nil
	})
	if err != nil {
		c.other("reading rows of kind %c: %v", kind, err)
	}
}

func check(v View) []Problem {
	c := &checker{
		v: v, bodies: make(map[uint64]dfs.Ino), chunks: make(map[dfs.ChunkID]*chunk),
		live: make(map[dfs.ChunkID]uint64), groups: make(map[dfs.PG]uint64), sessions: make(map[dfs.SessionID]*Session),
	}
	is, err := v.Bootstrapped()
	if err != nil {
		c.other("reading the cluster row: %v", err)
	}
	c.strangers()
	if !is {
		return c.problems
	}
	c.readInodes()
	c.readDentries()
	c.readExtents()
	c.readXattrs()
	c.judgeInodes()
	c.readSessions()
	c.readLocks()
	c.readChunks()
	c.readMap()
	c.judgeCounters()
	return c.problems
}

// strangers finds rows of no known kind.
func (c *checker) strangers() {
	const kinds = "ABCDEGHIJKLMNOPQRSTUVWXY"
	lo := []byte{0}
	for i := range len(kinds) + 1 {
		hi := []byte{0xff, 0xff}
		if i < len(kinds) {
			hi = key0(kinds[i])
		}
		err := c.v.r.Scan(lo, hi, func(k, _ []byte) (bool, error) {
			c.other("key %x is of no known kind", k)
			return len(c.problems) < ProblemsMax, nil
		})
		if err != nil {
			c.other("reading all rows: %v", err)
		}
		if i < len(kinds) {
			lo = key0(kinds[i] + 1)
		}
	}
}

func (c *checker) readInodes() {
	c.each(kindInode, 1, func(k, b []byte) error {
		ino := dfs.Ino(number(k, 0))
		in, err := decodeInode(ino, b)
		if err != nil {
			return err
		}
		if (in.Type() == dfs.TypeLink) != (in.target != "") || in.target != "" && uint64(len(in.target)) != in.Size {
			c.ino(ino, "mode %o, size %d and a target of %d bytes", in.Mode, in.Size, len(in.target))
		}
		if (in.parent != 0) != in.IsDir() {
			c.ino(ino, "mode %o and parent %d", in.Mode, in.parent)
		}
		if in.Alloc > 0 && !in.IsFile() {
			c.ino(ino, "mode %o has %d bytes", in.Mode, in.Alloc)
		}
		c.inodes.add(facts{
			ino: ino, parent: in.parent, body: in.body, size: in.Size, has: in.Alloc,
			mode: in.Mode, nlink: in.Nlink, flags: in.Flags, xattrBytes: in.XattrBytes,
		})
		if in.body != 0 {
			if other, ok := c.bodies[uint64(in.body)]; ok {
				c.ino(ino, "has the same body as inode %d", other)
			}
			c.bodies[uint64(in.body)] = ino
		}
		return nil
	})
	for body, ino := range c.bodies {
		if other := c.inodes.get(dfs.Ino(body)); other != nil && other.body == 0 {
			c.ino(max(ino, other.ino), "has the same body as inode %d", min(ino, other.ino))
		}
	}
	c.each(kindOrphan, 1, func(k, b []byte) error {
		ino := dfs.Ino(number(k, 0))
		if f := c.inodes.get(ino); f == nil {
			c.ino(ino, "is an orphan without a row")
		} else {
			f.orphan = true
		}
		return nil
	})
}

func (c *checker) readDentries() {
	c.each(kindDentry, 2, func(k, b []byte) error {
		dir := dfs.Ino(number(k, 0))
		list, err := decodeDentries(b)
		if err != nil {
			return err
		}
		names := make(map[string]bool, len(list))
		for _, e := range list {
			if names[e.name] {
				c.ino(dir, "has %q twice", e.name)
			}
			names[e.name] = true
			c.dentry(dir, e, number(k, 1))
		}
		return nil
	})
}

func (c *checker) dentry(dir dfs.Ino, e dentry, hash uint64) {
	if c.v.hash(e.name) != hash {
		c.ino(dir, "keeps %q under hash %x", e.name, hash)
	}
	d := c.inodes.get(dir)
	if d == nil || !d.is(dfs.TypeDir) {
		c.ino(dir, "is no folder and has entry %q", e.name)
		return
	}
	d.entries++
	f := c.inodes.get(e.ino)
	if f == nil {
		c.ino(dir, "entry %q leads to inode %d, which has no row", e.name, e.ino)
		return
	}
	f.names++
	if !f.is(e.mode) {
		c.ino(dir, "entry %q says type %o, inode %d is %o", e.name, e.mode, e.ino, f.mode)
	}
	if f.is(dfs.TypeDir) {
		d.sub++
		if f.parent != dir {
			c.ino(e.ino, "is in folder %d and says that its parent is %d", dir, f.parent)
		}
	}
}

func (c *checker) readExtents() {
	c.each(kindExtent, 2, func(k, b []byte) error {
		e, err := decodeExtent(number(k, 1), b)
		if err != nil {
			return err
		}
		ino := dfs.Ino(number(k, 0))
		other, elsewhere := c.bodies[uint64(ino)]
		if elsewhere {
			ino = other
		}
		f := c.inodes.get(ino)
		if f == nil || f.body != 0 && !elsewhere {
			c.other("extent of body %d, which is no inode's", number(k, 0))
			return nil
		}
		if e.Off < f.end {
			c.ino(f.ino, "extents overlap at offset %d", e.Off)
		}
		f.alloc += uint64(e.Len)
		f.end = e.End()
		c.live[e.Chunk] += uint64(e.Len)
		return nil
	})
}

func (c *checker) readXattrs() {
	c.each(kindXattr, 1, func(k, b []byte) error {
		ino := dfs.Ino(number(k, 0))
		if _, err := decodeXattr(b); err != nil {
			return err
		}
		if f := c.inodes.get(ino); f == nil {
			c.ino(ino, "has xattr %q and no row", k[9:])
		} else {
			f.xattrs += uint32(len(k) - 9 + 1)
			f.wants |= xattrFlag(string(k[9:]))
		}
		return nil
	})
}

func (c *checker) judgeInodes() {
	root := c.inodes.get(dfs.RootIno)
	if root == nil || !root.is(dfs.TypeDir) || root.parent != dfs.RootIno || root.names != 0 {
		c.other("there is no root folder")
		return
	}
	root.names, root.reached = 1, true // it stays without a name
	c.inodes.each(func(f *facts) {
		c.sum.files++
		c.sum.bytes += int64(f.has)
		if f.orphan {
			c.sum.orphans++
		}
		c.judgeInode(f)
	})
}

func (c *checker) judgeInode(f *facts) {
	links := f.names
	if f.is(dfs.TypeDir) {
		if f.size != uint64(f.entries) {
			c.ino(f.ino, "size is %d, it has %d entries", f.size, f.entries)
		}
		if f.names > 1 {
			c.ino(f.ino, "folder with %d names", f.names)
		}
		if f.names > 0 {
			links = 2 + f.sub
			if !c.reaches(f) {
				c.ino(f.ino, "folder is not below the root")
			}
		}
	}
	if f.nlink != links {
		c.ino(f.ino, "nlink is %d, should be %d", f.nlink, links)
	}
	if f.orphan != (f.names == 0) {
		c.ino(f.ino, "has %d names, orphan: %v", f.names, f.orphan)
	}
	if f.has != f.alloc {
		c.ino(f.ino, "alloc is %d, extents have %d bytes", f.has, f.alloc)
	}
	if f.end > f.size && !f.is(dfs.TypeDir) {
		c.ino(f.ino, "size is %d, extents end at %d", f.size, f.end)
	}
	const flags = dfs.FlagAccessACL | dfs.FlagDefaultACL | dfs.FlagCapability
	if f.flags&flags != f.wants && !f.orphan {
		c.ino(f.ino, "flags are %x, its xattrs want %x", f.flags, f.wants)
	}
	if f.flags&dfs.FlagTmpfile != 0 && !f.orphan {
		c.ino(f.ino, "has a name, and says that it was never given one")
	}
	if f.xattrBytes != f.xattrs && !f.orphan { // a reap may have stopped between them
		c.ino(f.ino, "says %d bytes of xattr names, has %d", f.xattrBytes, f.xattrs)
	}
}

// reaches walks up to a folder that is known to be below the root.
func (c *checker) reaches(f *facts) bool {
	var way []*facts
	at := f
	for at != nil && !at.reached && len(way) <= c.inodes.len() {
		way = append(way, at)
		at = c.inodes.get(at.parent)
	}
	if at == nil || !at.reached {
		return false
	}
	for _, w := range way {
		w.reached = true
	}
	return true
}

func (c *checker) readSessions() {
	cnt, err := c.v.counters()
	if err != nil {
		c.other("%v", err)
	}
	c.each(kindSession, 1, func(k, b []byte) error {
		s, err := decodeSession(dfs.SessionID(number(k, 0)), b)
		if err != nil {
			return err
		}
		c.sessions[s.ID] = s
		if uint64(s.ID) >= cnt.nextSession {
			c.other("session %s is of the future", s.ID)
		}
		if n, err := c.v.r.Get(key1(kindNonce, s.Nonce)); err != nil || n == nil {
			c.other("session %s has no nonce row (%v)", s.ID, err)
		}
		return nil
	})
	if uint64(len(c.sessions)) != cnt.sessions {
		c.other("%d sessions, counted as %d", len(c.sessions), cnt.sessions)
	}
	c.each(kindNonce, 1, func(k, b []byte) error {
		id, err := decodeNumber("nonce", b)
		if s := c.sessions[dfs.SessionID(id)]; err == nil && (s == nil || s.Nonce != number(k, 0)) {
			c.other("nonce %x leads to session %x, which has another or is gone", number(k, 0), id)
		}
		return err
	})
	var inodes, chunks []Range
	tallies := make(map[dfs.SessionID]*tally)
	c.each(kindTally, 1, func(k, b []byte) error {
		id := dfs.SessionID(number(k, 0))
		t, err := decodeTally(b)
		if err != nil {
			return err
		}
		if c.sessions[id] == nil {
			c.other("tally of session %s, which is gone", id)
		}
		tallies[id] = t
		inodes, chunks = append(inodes, t.inodes...), append(chunks, t.chunks...)
		return nil
	})
	c.disjoint("inode numbers", inodes, cnt.nextIno)
	c.disjoint("chunk numbers", chunks, cnt.nextChunk)
	if len(tallies) != len(c.sessions) {
		c.other("%d sessions have %d tallies", len(c.sessions), len(tallies))
	}
	c.each(kindReply, 2, func(k, b []byte) error {
		id, seq := dfs.SessionID(number(k, 0)), number(k, 1)
		if t := tallies[id]; t == nil || seq < t.acked || seq > t.last {
			c.other("answer %d of session %s, which is gone, has it, or is not there yet", seq, id)
		}
		_, err := decodeReply(b)
		return err
	})
}

// disjoint reports ranges that overlap or that were not granted yet.
func (c *checker) disjoint(what string, list []Range, next uint64) {
	slices.SortFunc(list, func(a, b Range) int { return cmp.Compare(a.From, b.From) })
	for i, r := range list {
		if r.To <= r.From || r.To > next || i > 0 && list[i-1].To > r.From {
			c.other("%s %d to %d are granted twice, or not yet (the next is %d)", what, r.From, r.To, next)
		}
	}
}

func (c *checker) readChunks() {
	cl, err := c.v.cluster()
	if err != nil {
		c.other("%v", err)
		return
	}
	granted, err := c.v.granted()
	if err != nil {
		c.other("%v", err)
	}
	c.each(kindChunk, 1, func(k, b []byte) error {
		id := dfs.ChunkID(number(k, 0))
		ch, err := decodeChunk(b)
		if err != nil {
			return err
		}
		c.chunks[id] = ch
		c.sum.records++
		c.groups[id.PG(cl.buckets)]++
		if !id.Layout().Valid() || contains(granted, id.Seq()) {
			c.chunk(id, "has a record, and its number may still be used")
		}
		if ch.live != c.live[id] {
			c.chunk(id, "live is %d, extents have %d bytes", ch.live, c.live[id])
		}
		delete(c.live, id)
		if !ch.sealed && c.sessions[ch.owner] == nil {
			c.chunk(id, "is not sealed, its session %s is gone", ch.owner)
		}
		return nil
	})
	for id := range c.live {
		c.chunk(id, "has extents and no record")
	}
	c.listed(kindDroppable, 0, func(ch *chunk, _ uint64) bool { return ch.droppable })
	c.listed(kindUnsealed, 1, func(ch *chunk, owner uint64) bool { return ch.unsealed && uint64(ch.owner) == owner })
	c.each(kindGroup, 1, func(k, b []byte) error {
		pg := dfs.PG(number(k, 0))
		n, err := decodeNumber("group", b)
		if n != c.groups[pg] || n == 0 {
			c.other("group %s has %d chunks, counted as %d", pg, c.groups[pg], n)
		}
		delete(c.groups, pg)
		return err
	})
	for pg, n := range c.groups {
		c.other("group %s has %d chunks, counted as none", pg, n)
	}
}

// listed compares the rows that list chunks with what the records say.
func (c *checker) listed(kind byte, i int, is func(ch *chunk, first uint64) bool) {
	seen := make(map[dfs.ChunkID]bool)
	c.each(kind, i+1, func(k, _ []byte) error {
		id := dfs.ChunkID(number(k, i))
		seen[id] = true
		if ch := c.chunks[id]; ch == nil || !is(ch, number(k, 0)) {
			c.chunk(id, "is wrongly listed under %c", kind)
		}
		return nil
	})
	for id, ch := range c.chunks {
		if is(ch, uint64(ch.owner)) && !seen[id] {
			c.chunk(id, "is not listed under %c", kind)
		}
	}
}

func (c *checker) readMap() {
	m, err := c.v.Map()
	if err != nil {
		c.other("%v", err)
		return
	}
	for pg, home := range m.Home {
		if len(home) != pg.Layout().Width() || uint32(pg.Bucket()) >= m.Buckets {
			c.other("group %s has a home of %d servers", pg, len(home))
		}
		for _, id := range home {
			if id != 0 && m.Server(id) == nil {
				c.other("group %s is at server %s, which is not in the map", pg, id)
			}
		}
	}
	if _, err := c.v.Masters(); err != nil {
		c.other("%v", err)
	}
	c.each(kindJob, 1, func(k, b []byte) error {
		_, err := decodeJob(number(k, 0), b)
		return err
	})
}

func (c *checker) judgeCounters() {
	cnt, err := c.v.Counters()
	if err != nil {
		c.other("%v", err)
		return
	}
	got := counts{int64(cnt.Inodes), int64(cnt.Orphans), int64(cnt.Chunks), int64(cnt.Bytes)}
	if got != c.sum {
		c.other("counters say %+v, there are %+v", got, c.sum)
	}
}
