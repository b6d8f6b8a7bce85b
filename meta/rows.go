package meta

import (
	"encoding/binary"
	"errors"
	"fmt"

	"dfs"
)

// markerRow is the value of rows whose key says all.
var markerRow = []byte{rowVersion}

// hostMax bounds the strings by which sessions, servers and masters are known.
const hostMax = dfs.PathMax

// inode is the row of an inode.
type inode struct {
	dfs.Attr
	parent dfs.Ino // of a folder: where ".." leads; of the root, itself
	body   dfs.Ino // its extents are kept under this number; 0: under its own
	target string  // of a symlink
	writer writer  // whose intents follow the file as it is

	dirty bool
}

// writer is a session, and the piece by which it has left a file; see dfs.Intent.
type writer struct {
	session dfs.SessionID
	seq     uint64
}

const (
	inodeMtime = 1 << iota // mtime differs from ctime
	inodeAtime             // atime differs from ctime
	inodeBtime             // btime differs from ctime
	inodeRdev              // the others: not zero
	inodeFlags
	inodeParent
	inodeBody
	inodeXattrs
	inodeTarget
	inodeWriter
	inodeEnd
)

func (in *inode) encode(b []byte) []byte {
	var has uint64
	set := func(bit uint64, yes bool) {
		if yes {
			has |= bit
		}
	}
	set(inodeMtime, in.Mtime != in.Ctime)
	set(inodeAtime, in.Atime != in.Ctime)
	set(inodeBtime, in.Btime != in.Ctime)
	set(inodeRdev, in.Rdev != 0)
	set(inodeFlags, in.Flags != 0)
	set(inodeParent, in.parent != 0)
	set(inodeBody, in.body != 0)
	set(inodeXattrs, in.XattrBytes != 0)
	set(inodeTarget, in.target != "")
	set(inodeWriter, in.writer != (writer{}))

	b = append(b, rowVersion)
	for _, v := range [...]uint64{has, uint64(in.Mode), uint64(in.Nlink), uint64(in.UID), uint64(in.GID),
		uint64(in.Layout), in.Size, in.Alloc, in.Change} {
		b = binary.AppendUvarint(b, v)
	}
	b = appendTime(b, in.Ctime)
	if has&inodeMtime != 0 {
		b = appendTime(b, in.Mtime)
	}
	if has&inodeAtime != 0 {
		b = appendTime(b, in.Atime)
	}
	if has&inodeBtime != 0 {
		b = appendTime(b, in.Btime)
	}
	if has&inodeRdev != 0 {
		b = binary.AppendUvarint(b, uint64(in.Rdev))
	}
	if has&inodeFlags != 0 {
		b = binary.AppendUvarint(b, uint64(in.Flags))
	}
	if has&inodeParent != 0 {
		b = binary.AppendUvarint(b, uint64(in.parent))
	}
	if has&inodeBody != 0 {
		b = binary.AppendUvarint(b, uint64(in.body))
	}
	if has&inodeXattrs != 0 {
		b = binary.AppendUvarint(b, uint64(in.XattrBytes))
	}
	if has&inodeTarget != 0 {
		b = appendString(b, in.target)
	}
	if has&inodeWriter != 0 {
		b = binary.AppendUvarint(b, uint64(in.writer.session))
		b = binary.AppendUvarint(b, in.writer.seq)
	}
	return b
}

func decodeInode(ino dfs.Ino, b []byte) (*inode, error) {
	d := decode("inode", b)
	in := &inode{}
	has := d.uvarint()
	if has >= inodeEnd {
		d.fail(fmt.Errorf("unknown parts %#x", has))
	}
	in.Ino = ino
	in.Mode = d.uvarint32()
	in.Nlink = d.uvarint32()
	in.UID = d.uvarint32()
	in.GID = d.uvarint32()
	in.Layout = decodeLayout(&d)
	in.Size = d.uvarint()
	in.Alloc = d.uvarint()
	in.Change = d.uvarint()
	in.Ctime = d.time()
	in.Mtime, in.Atime, in.Btime = in.Ctime, in.Ctime, in.Ctime
	if has&inodeMtime != 0 {
		in.Mtime = d.time()
	}
	if has&inodeAtime != 0 {
		in.Atime = d.time()
	}
	if has&inodeBtime != 0 {
		in.Btime = d.time()
	}
	if has&inodeRdev != 0 {
		in.Rdev = d.uvarint32()
	}
	if has&inodeFlags != 0 {
		in.Flags = d.uvarint32()
	}
	if has&inodeParent != 0 {
		in.parent = dfs.Ino(d.uvarint())
	}
	if has&inodeBody != 0 {
		in.body = dfs.Ino(d.uvarint())
	}
	if has&inodeXattrs != 0 {
		in.XattrBytes = d.uvarint32()
	}
	if has&inodeTarget != 0 {
		in.target = d.string(dfs.PathMax)
	}
	if has&inodeWriter != 0 {
		in.writer = writer{dfs.SessionID(d.uvarint()), d.uvarint()}
	}
	return in, d.done()
}

func decodeLayout(d *decoder) dfs.Layout {
	v := d.uvarint()
	if v > 1<<16-1 {
		d.fail(fmt.Errorf("layout %#x", v))
	}
	return dfs.Layout(v)
}

// dentry is one entry of a folder.
type dentry struct {
	name string
	ino  dfs.Ino
	mode uint32 // type bits
	slot uint8
}

func encodeDentries(b []byte, list []dentry) []byte {
	b = append(b, rowVersion)
	for i := range list {
		e := &list[i]
		b = append(b, e.slot, byte(e.mode>>12))
		b = binary.AppendUvarint(b, uint64(e.ino))
		b = appendString(b, e.name)
	}
	return b
}

func decodeDentries(b []byte) ([]dentry, error) {
	d := decode("dentry", b)
	list := make([]dentry, 0, 1)
	for first := true; first || len(d.b) > 0; first = false {
		e := dentry{slot: d.byte(), mode: uint32(d.byte()) << 12}
		e.ino = dfs.Ino(d.uvarint())
		e.name = d.string(dfs.NameMax)
		switch {
		case d.err != nil:
		case e.mode&^dfs.TypeMask != 0 || e.ino == 0 || e.name == "":
			d.fail(errors.New("impossible entry"))
		case len(list) > 0 && list[len(list)-1].slot >= e.slot:
			d.fail(errors.New("slots are not in order"))
		}
		if d.err != nil {
			break
		}
		list = append(list, e)
	}
	return list, d.done()
}

func encodeExtent(b []byte, e dfs.Extent) []byte {
	b = append(b, rowVersion)
	b = binary.AppendUvarint(b, uint64(e.Len))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Chunk))
	b = binary.AppendUvarint(b, uint64(e.Record))
	b = binary.AppendUvarint(b, uint64(e.RecordLen))
	return binary.AppendUvarint(b, uint64(e.Start))
}

func decodeExtent(off uint64, b []byte) (dfs.Extent, error) {
	d := decode("extent", b)
	e := dfs.Extent{
		Off: off, Len: d.uvarint32(), Chunk: dfs.ChunkID(d.fixed64()),
		Record: d.uvarint32(), RecordLen: d.uvarint32(), Start: d.uvarint32(),
	}
	if d.err == nil && (e.Len == 0 || e.End() < e.Off || uint64(e.Start)+uint64(e.Len) > uint64(e.RecordLen)) {
		d.fail(errors.New("impossible extent"))
	}
	return e, d.done()
}

// chunk is the row of a chunk.
type chunk struct {
	owner     dfs.SessionID
	present   uint32    // bit i: position i had the fragment, as of epoch
	epoch     dfs.Epoch // of the map when present was found out
	committed uint32
	live      uint64
	sealed    bool

	dirty     bool
	isNew     bool   // has no row yet
	droppable bool   // has its row of kindDroppable
	unsealed  bool   // has its row of kindUnsealed
	before    uint32 // committed when it was loaded
}

func (c *chunk) encode(b []byte) []byte {
	var flags byte
	if c.sealed {
		flags = 1
	}
	b = append(b, rowVersion, flags)
	b = binary.AppendUvarint(b, uint64(c.owner))
	b = binary.AppendUvarint(b, uint64(c.present))
	b = binary.AppendUvarint(b, uint64(c.epoch))
	b = binary.AppendUvarint(b, uint64(c.committed))
	return binary.AppendUvarint(b, c.live)
}

func decodeChunk(b []byte) (*chunk, error) {
	d := decode("chunk", b)
	flags := d.byte()
	if flags > 1 {
		d.fail(fmt.Errorf("unknown flags %#x", flags))
	}
	c := &chunk{
		sealed: flags == 1, owner: dfs.SessionID(d.uvarint()), present: d.uvarint32(),
		epoch: dfs.Epoch(d.uvarint()), committed: d.uvarint32(), live: d.uvarint(),
	}
	c.before = c.committed
	c.droppable = c.sealed && c.live == 0
	c.unsealed = !c.sealed
	return c, d.done()
}

// encodeSession makes the row of a session: what never changes of it.
func encodeSession(b []byte, s *Session) []byte {
	b = append(b, rowVersion)
	b = binary.AppendUvarint(b, s.Nonce)
	b = appendString(b, s.Host)
	b = appendString(b, s.Mountpoint)
	b = appendString(b, s.Version)
	return appendTime(b, s.Opened)
}

func decodeSession(id dfs.SessionID, b []byte) (*Session, error) {
	d := decode("session", b)
	s := &Session{
		ID: id, Nonce: d.uvarint(), Host: d.string(hostMax), Mountpoint: d.string(hostMax), Version: d.string(hostMax), Opened: d.time(),
	}
	return s, d.done()
}

// counts is what commands add to the counters.
type counts struct {
	files, orphans, records, bytes int64 // inodes, those without a name, chunk records, bytes in extents
}

func (c *counts) add(d counts) {
	c.files += d.files
	c.orphans += d.orphans
	c.records += d.records
	c.bytes += d.bytes
}

func (c *counts) append(b []byte) []byte {
	b = binary.AppendVarint(b, c.files)
	b = binary.AppendVarint(b, c.orphans)
	b = binary.AppendVarint(b, c.records)
	return binary.AppendVarint(b, c.bytes)
}

func (c *counts) read(d *decoder) {
	*c = counts{files: d.varint(), orphans: d.varint(), records: d.varint(), bytes: d.varint()}
}

// tally is what commands of a session change, and all that they need of it: a
// row for each session, so that the global counters are not a row that every
// command of everybody writes. Each session has one.
type tally struct {
	acked uint64 // the session got every answer below this
	last  uint64 // highest sequence carried out
	counts
	inodes []Range // granted inode numbers, the latest last
	chunks []Range // granted chunk sequence numbers without a record

	restrict dfs.Restrictions
	intents  bool // it may have acknowledged what its chunks alone know of
}

func (t *tally) encode(b []byte) []byte {
	b = append(b, rowVersion)
	b = binary.AppendUvarint(b, t.acked)
	b = binary.AppendUvarint(b, t.last)
	b = t.counts.append(b)
	b = appendRanges(b, t.inodes)
	b = appendRanges(b, t.chunks)
	if t.restrict != 0 || t.intents {
		b = binary.AppendUvarint(b, uint64(t.restrict))
	}
	if t.intents {
		b = append(b, 1)
	}
	return b
}

func decodeTally(b []byte) (*tally, error) {
	d := decode("tally", b)
	t := &tally{acked: d.uvarint(), last: d.uvarint()}
	t.counts.read(&d)
	t.inodes = d.ranges()
	t.chunks = d.ranges()
	if len(d.b) > 0 {
		t.restrict = dfs.Restrictions(d.uvarint32())
	}
	if len(d.b) > 0 {
		if t.intents = d.byte() == 1; !t.intents {
			d.fail(errors.New("unknown flag"))
		}
	}
	return t, d.done()
}

// counters is the one row of kindCounters.
type counters struct {
	nextIno, nextChunk, nextSession, sessions uint64
	counts
}

func (c *counters) encode(b []byte) []byte {
	b = append(b, rowVersion)
	for _, v := range [...]uint64{c.nextIno, c.nextChunk, c.nextSession, c.sessions} {
		b = binary.AppendUvarint(b, v)
	}
	return c.counts.append(b)
}

func decodeCounters(b []byte) (counters, error) {
	d := decode("counters", b)
	c := counters{nextIno: d.uvarint(), nextChunk: d.uvarint(), nextSession: d.uvarint(), sessions: d.uvarint()}
	c.counts.read(&d)
	return c, d.done()
}

// cluster is the one row of kindCluster.
type cluster struct {
	id      dfs.ClusterID
	buckets uint32
	epoch   dfs.Epoch
	level   uint32 // of the state, see Level
	program string // version that raised it
}

// levelVersion is the version of the cluster's row from level 2 on. It begins with the
// level and the program, whatever comes behind them at later levels.
const levelVersion = 2

func (c *cluster) encode(b []byte) []byte {
	if c.level > 1 {
		b = append(b, levelVersion)
		b = binary.AppendUvarint(b, uint64(c.level))
		b = appendString(b, c.program)
	} else {
		b = append(b, rowVersion)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(c.id))
	b = binary.AppendUvarint(b, uint64(c.buckets))
	return binary.AppendUvarint(b, uint64(c.epoch))
}

// clusterLevel reads the beginning of the cluster's row, and answers the rest.
func clusterLevel(b []byte) (level uint32, program string, rest decoder) {
	if len(b) == 0 || b[0] != levelVersion {
		return 1, "", decode("cluster", b)
	}
	d := decoder{b: b[1:], what: "cluster"}
	if level, program = d.uvarint32(), d.string(hostMax); d.err == nil && level < 2 {
		d.fail(fmt.Errorf("level %d", level))
	}
	return level, program, d
}

func decodeCluster(b []byte) (cluster, error) {
	var c cluster
	var d decoder
	c.level, c.program, d = clusterLevel(b)
	if d.err == nil && c.level > Level {
		return cluster{}, &NewerError{Level: c.level, Program: c.program, Knows: Level}
	}
	c.id, c.buckets, c.epoch = dfs.ClusterID(d.fixed64()), d.uvarint32(), dfs.Epoch(d.uvarint())
	if d.err == nil && (c.buckets == 0 || c.buckets > bucketsMax) {
		d.fail(fmt.Errorf("%d buckets", c.buckets))
	}
	return c, d.done()
}

func encodeServer(b []byte, s *dfs.Server) []byte {
	b = append(b, rowVersion)
	for _, v := range [...]string{s.Name, s.Addr, s.Host, s.Zone} {
		b = appendString(b, v)
	}
	b = binary.AppendUvarint(b, uint64(s.Weight))
	b = append(b, byte(s.State))
	if serverLevel(s) == 1 {
		return b
	}
	var flags byte
	if s.Leaving {
		flags |= serverLeaving
	}
	if s.Weighted {
		flags |= serverWeighted
	}
	return binary.AppendVarint(append(b, flags), s.Until)
}

// Flags of the row of a server.
const (
	serverLeaving = 1 << iota
	serverWeighted
)

// serverLevel is the level that it takes to know of a server.
func serverLevel(s *dfs.Server) uint32 {
	if s.Leaving || s.Weighted || s.Until != 0 {
		return 2
	}
	return 1
}

func decodeServer(id dfs.NodeID, b []byte) (dfs.Server, error) {
	d := decode("server", b)
	s := dfs.Server{
		ID: id, Name: d.string(hostMax), Addr: d.string(hostMax), Host: d.string(hostMax), Zone: d.string(hostMax),
		Weight: d.uvarint32(), State: dfs.ServerState(d.byte()),
	}
	if len(d.b) > 0 {
		flags := d.byte()
		if flags&^(serverLeaving|serverWeighted) != 0 {
			d.fail(fmt.Errorf("unknown flags %#x", flags))
		}
		s.Leaving, s.Weighted, s.Until = flags&serverLeaving != 0, flags&serverWeighted != 0, d.varint()
	}
	return s, d.done()
}

// position is one server of a placement group's home.
type position struct {
	server dfs.NodeID
	since  dfs.Epoch // fragments that were found present before this epoch are on another server
}

func encodeHome(b []byte, home []position) []byte {
	b = append(b, rowVersion)
	b = binary.AppendUvarint(b, uint64(len(home)))
	for _, p := range home {
		b = binary.BigEndian.AppendUint64(b, uint64(p.server))
		b = binary.AppendUvarint(b, uint64(p.since))
	}
	return b
}

func decodeHome(b []byte) ([]position, error) {
	d := decode("home", b)
	n := d.count(9)
	home := make([]position, 0, n)
	for range n {
		home = append(home, position{server: dfs.NodeID(d.fixed64()), since: dfs.Epoch(d.uvarint())})
	}
	return home, d.done()
}

func encodeNumber(b []byte, v uint64) []byte {
	return binary.AppendUvarint(append(b, rowVersion), v)
}

func decodeNumber(what string, b []byte) (uint64, error) {
	d := decode(what, b)
	v := d.uvarint()
	return v, d.done()
}

func encodeMaster(b []byte, m Master) []byte {
	return appendString(appendString(append(b, rowVersion), m.Name), m.Addr)
}

func decodeMaster(id dfs.NodeID, b []byte) (Master, error) {
	d := decode("master", b)
	m := Master{ID: id, Name: d.string(hostMax), Addr: d.string(hostMax)}
	return m, d.done()
}

const (
	replyExisted = 1 << iota
	replyStaleMap
	replyMore
	replyAttr
	replyIDs   // Session, Inodes, Chunks
	replyLists // Orphaned, Skipped, Reaped, Dropped
	replyEpoch
	replyToken
	replyCopied
	replyEnd
)

func encodeReply(b []byte, r *Reply) []byte {
	var has uint64
	set := func(bit uint64, yes bool) {
		if yes {
			has |= bit
		}
	}
	set(replyExisted, r.Existed)
	set(replyStaleMap, r.StaleMap)
	set(replyMore, r.More)
	set(replyAttr, r.Attr != nil)
	set(replyIDs, r.Session != 0 || r.Inodes != Range{} || r.Chunks != Range{})
	set(replyLists, len(r.Orphaned)+len(r.Skipped)+len(r.Reaped)+len(r.Dropped) != 0)
	set(replyEpoch, r.Epoch != 0)
	set(replyToken, r.Token != 0)
	set(replyCopied, r.Copied != 0)

	b = append(b, rowVersion)
	b = binary.AppendUvarint(b, has)
	b = binary.AppendUvarint(b, uint64(r.Errno))
	if has&replyIDs != 0 {
		b = binary.AppendUvarint(b, uint64(r.Session))
		b = appendRanges(b, []Range{r.Inodes, r.Chunks})
	}
	if has&replyLists != 0 {
		for _, list := range [...][]dfs.Ino{r.Orphaned, r.Skipped, r.Reaped} {
			b = binary.AppendUvarint(b, uint64(len(list)))
			for _, ino := range list {
				b = binary.AppendUvarint(b, uint64(ino))
			}
		}
		b = binary.AppendUvarint(b, uint64(len(r.Dropped)))
		for _, id := range r.Dropped {
			b = binary.BigEndian.AppendUint64(b, uint64(id))
		}
	}
	if has&replyEpoch != 0 {
		b = binary.AppendUvarint(b, uint64(r.Epoch))
	}
	if has&replyToken != 0 {
		b = binary.AppendUvarint(b, r.Token)
	}
	if has&replyCopied != 0 {
		b = binary.AppendUvarint(b, r.Copied)
	}
	if has&replyAttr != 0 {
		b = binary.AppendUvarint(b, uint64(r.Attr.Ino))
		in := inode{Attr: *r.Attr}
		b = in.encode(b)
	}
	return b
}

func decodeReply(b []byte) (Reply, error) {
	d := decode("reply", b)
	var r Reply
	has := d.uvarint()
	if has >= replyEnd {
		d.fail(fmt.Errorf("unknown parts %#x", has))
	}
	r.Existed = has&replyExisted != 0
	r.StaleMap = has&replyStaleMap != 0
	r.More = has&replyMore != 0
	r.Errno = dfs.Errno(d.uvarint32())
	if has&replyIDs != 0 {
		r.Session = dfs.SessionID(d.uvarint())
		if list := d.ranges(); len(list) == 2 {
			r.Inodes, r.Chunks = list[0], list[1]
		} else {
			d.fail(errors.New("impossible ranges"))
		}
	}
	if has&replyLists != 0 {
		for _, list := range [...]*[]dfs.Ino{&r.Orphaned, &r.Skipped, &r.Reaped} {
			for range d.count(1) {
				*list = append(*list, dfs.Ino(d.uvarint()))
			}
		}
		for range d.count(8) {
			r.Dropped = append(r.Dropped, dfs.ChunkID(d.fixed64()))
		}
	}
	if has&replyEpoch != 0 {
		r.Epoch = dfs.Epoch(d.uvarint())
	}
	if has&replyToken != 0 {
		r.Token = d.uvarint()
	}
	if has&replyCopied != 0 {
		r.Copied = d.uvarint()
	}
	if has&replyAttr != 0 && d.err == nil {
		ino := dfs.Ino(d.uvarint())
		if d.err == nil {
			in, err := decodeInode(ino, d.b)
			if err != nil {
				return r, err
			}
			r.Attr = &in.Attr
			d.b = nil
		}
	}
	return r, d.done()
}
