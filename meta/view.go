package meta

import (
	"cmp"
	"slices"

	"dfs"
)

// View reads the namespace from a table that does not change meanwhile. An error
// is a dfs.Errno when it is a verdict; any other means that the store is broken.
type View struct {
	r    Reader
	hash func(name string) uint64
}

// NewView returns a view of r.
func NewView(r Reader) View { return View{r: r, hash: hashName} }

// Session is what is known of one client.
type Session struct {
	ID         dfs.SessionID
	Nonce      uint64
	Host       string
	Mountpoint string
	Version    string
	Opened     dfs.Time
	Restrict   dfs.Restrictions
	Intents    bool    // chunks of it may know of what it has not told: Replay has to go before CloseSession
	Inodes     []Range // granted inode numbers, the latest last
	Chunks     []Range // granted chunk sequence numbers of which no record was made yet
}

// Master is one member of the masters' group, for people and for dialing; who
// votes is Raft's own knowledge.
type Master struct {
	ID   dfs.NodeID
	Name string
	Addr string
}

// Chunk is the record of one chunk.
type Chunk struct {
	ID        dfs.ChunkID
	Present   uint32 // bit i: the fragment of position i is on the server that has this position now
	Committed uint32 // bytes of each fragment file
	Live      uint64 // bytes that extents refer to
	Sealed    bool
	Owner     dfs.SessionID // who writes or wrote it
}

// Counters is the state in numbers.
type Counters struct {
	Inodes      uint64 // in use, with orphans
	Orphans     uint64
	Chunks      uint64 // chunk records
	Bytes       uint64 // that extents cover
	Sessions    uint64
	NextIno     uint64
	NextChunk   uint64
	NextSession uint64
}

// GetAttr answers the attributes of an inode; ESTALE when it is gone.
func (v View) GetAttr(ino dfs.Ino) (dfs.Attr, error) {
	in, err := v.stale(ino)
	if err != nil {
		return dfs.Attr{}, err
	}
	return in.Attr, nil
}

// Writer tells by which piece of which session a file was left, see dfs.Intent; 0 when its bytes
// were changed otherwise since, or there is no such file.
func (v View) Writer(ino dfs.Ino) (dfs.SessionID, uint64, error) {
	in, err := v.inode(ino)
	if err != nil || in == nil {
		return 0, 0, err
	}
	return in.writer.session, in.writer.seq, nil
}

// Access answers nil when cred may do all of mask (4 read, 2 write, 1 execute or
// search), else EACCES.
func (v View) Access(cred dfs.Cred, ino dfs.Ino, mask uint32) error {
	in, err := v.stale(ino)
	if err != nil {
		return err
	}
	return v.may(in, &cred, mask)
}

// Extents lists the extents of a file in order of offset, from the first that
// ends after off, at most limit; more says that others follow.
func (v View) Extents(ino dfs.Ino, off uint64, limit int) (list []dfs.Extent, more bool, err error) {
	in, err := v.stale(ino)
	if err != nil || in.Alloc == 0 {
		return nil, false, err
	}
	body := in.bodyOf()
	lo := key2(kindExtent, body, off)
	if off > 0 { // the one before may reach beyond it
		k, b, err := v.r.Last(key1(kindExtent, body), lo)
		if err != nil {
			return nil, false, err
		}
		if k != nil {
			e, err := decodeExtent(number(k, 1), b)
			if err != nil {
				return nil, false, err
			}
			if e.End() > off {
				lo = key2(kindExtent, body, e.Off)
			}
		}
	}
	err = v.r.Scan(lo, after(kindExtent, body), func(k, b []byte) (bool, error) {
		if len(list) >= limit {
			more = true
			return false, nil
		}
		e, err := decodeExtent(number(k, 1), b)
		list = append(list, e)
		return true, err
	})
	return list, more, err
}

// SmallFile is a file and all its extents.
type SmallFile struct {
	Attr    dfs.Attr
	Extents []dfs.Extent
}

// Bounds of SmallFiles.
const (
	smallBytes   = 1 << 20 // more is no small file
	smallExtents = 64      // of one
	smallRows    = 4096    // of extents looked at: what comes after them is left out
)

// SmallFiles lists small regular files with numbers in [from, to), in order; without
// extents it is quicker. Copies that still share the bytes of others are left out.
func (v View) SmallFiles(from, to dfs.Ino, extents bool) ([]SmallFile, error) {
	var list []SmallFile
	err := v.r.Scan(key1(kindInode, uint64(from)), key1(kindInode, uint64(to)), func(k, b []byte) (bool, error) {
		in, err := decodeInode(dfs.Ino(number(k, 0)), b)
		if err == nil && in.IsFile() && in.Size <= smallBytes && in.body == 0 {
			list = append(list, SmallFile{Attr: in.Attr})
		}
		return true, err
	})
	if err != nil || !extents || len(list) == 0 {
		return list, err
	}
	at, rows := 0, 0
	err = v.r.Scan(key1(kindExtent, uint64(list[0].Attr.Ino)), key1(kindExtent, uint64(to)), func(k, b []byte) (bool, error) {
		body := dfs.Ino(number(k, 0))
		for at < len(list) && list[at].Attr.Ino < body {
			at++
		}
		if rows++; at == len(list) || rows > smallRows {
			return false, nil
		}
		if list[at].Attr.Ino != body {
			return true, nil
		}
		e, err := decodeExtent(number(k, 1), b)
		list[at].Extents = append(list[at].Extents, e)
		return true, err
	})
	if rows > smallRows {
		list = list[:at]
	}
	list = slices.DeleteFunc(list, func(f SmallFile) bool { return len(f.Extents) > smallExtents })
	return list, err
}

// Readlink answers the target of a symlink; EINVAL of anything else.
func (v View) Readlink(ino dfs.Ino) (string, error) {
	in, err := v.stale(ino)
	if err != nil {
		return "", err
	}
	if in.Type() != dfs.TypeLink {
		return "", dfs.EINVAL
	}
	return in.target, nil
}

// Bootstrapped reports whether the table holds a file system.
func (v View) Bootstrapped() (bool, error) {
	b, err := v.r.Get(key0(kindCluster))
	return b != nil, err
}

// Map is the cluster map, derived; of a table not bootstrapped it is empty.
func (v View) Map() (*dfs.ClusterMap, error) {
	cl, err := v.cluster()
	if err != nil {
		return nil, err
	}
	m := &dfs.ClusterMap{Cluster: cl.id, Epoch: cl.epoch, Buckets: cl.buckets, Home: make(map[dfs.PG][]dfs.NodeID)}
	err = v.r.Scan(key0(kindServer), key0(kindServer+1), func(k, b []byte) (bool, error) {
		s, err := decodeServer(dfs.NodeID(number(k, 0)), b)
		m.Servers = append(m.Servers, s)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	err = v.r.Scan(key0(kindHome), key0(kindHome+1), func(k, b []byte) (bool, error) {
		home, err := decodeHome(b)
		ids := make([]dfs.NodeID, len(home))
		for i, p := range home {
			ids[i] = p.server
		}
		m.Home[dfs.PG(number(k, 0))] = ids
		return true, err
	})
	if err != nil {
		return nil, err
	}
	m.Derive()
	m.Settings, err = v.Config()
	return m, err
}

// Epoch is the epoch of the map; 0 of a table not bootstrapped.
func (v View) Epoch() (dfs.Epoch, error) {
	cl, err := v.cluster()
	return cl.epoch, err
}

// Buckets is how many placement groups each layout has; 0 of a table not bootstrapped.
func (v View) Buckets() (uint32, error) {
	cl, err := v.cluster()
	return cl.buckets, err
}

// Layouts lists the layouts that some inode was given, in ascending order: their
// placement groups need homes.
func (v View) Layouts() ([]dfs.Layout, error) {
	var list []dfs.Layout
	err := v.r.Scan(key0(kindLayout), key0(kindLayout+1), func(k, _ []byte) (bool, error) {
		list = append(list, dfs.Layout(number(k, 0)))
		return true, nil
	})
	return list, err
}

// GroupChunks is how many chunk records a placement group has.
func (v View) GroupChunks(pg dfs.PG) (uint64, error) {
	b, err := v.r.Get(key1(kindGroup, uint64(pg)))
	if err != nil || b == nil {
		return 0, err
	}
	return decodeNumber("group", b)
}

// Session finds a session; false when there is none.
func (v View) Session(id dfs.SessionID) (Session, bool, error) {
	b, err := v.r.Get(key1(kindSession, uint64(id)))
	if err != nil || b == nil {
		return Session{}, false, err
	}
	s, err := decodeSession(id, b)
	if err != nil {
		return Session{}, false, err
	}
	t, err := v.tally(id)
	if err != nil || t == nil {
		return Session{}, false, err
	}
	s.Inodes, s.Chunks, s.Restrict, s.Intents = t.inodes, t.chunks, t.restrict, t.intents
	return *s, true, nil
}

// Sessions lists all sessions in order of id.
func (v View) Sessions() ([]Session, error) {
	var list []Session
	err := v.r.Scan(key0(kindSession), key0(kindSession+1), func(k, b []byte) (bool, error) {
		s, err := decodeSession(dfs.SessionID(number(k, 0)), b)
		list = append(list, *s)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	tallies := make(map[dfs.SessionID]*tally, len(list))
	err = v.tallies(func(id dfs.SessionID, t *tally) { tallies[id] = t })
	for i := range list {
		if t := tallies[list[i].ID]; t != nil {
			list[i].Inodes, list[i].Chunks, list[i].Restrict, list[i].Intents = t.inodes, t.chunks, t.restrict, t.intents
		}
	}
	return list, err
}

// tallies calls fn for each session, in order of id.
func (v View) tallies(fn func(id dfs.SessionID, t *tally)) error {
	return v.r.Scan(key0(kindTally), key0(kindTally+1), func(k, b []byte) (bool, error) {
		t, err := decodeTally(b)
		if err == nil {
			fn(dfs.SessionID(number(k, 0)), t)
		}
		return true, err
	})
}

// Orphans lists orphans with numbers above after, at most limit.
func (v View) Orphans(after dfs.Ino, limit int) ([]dfs.Ino, error) {
	var list []dfs.Ino
	err := v.page(kindOrphan, uint64(after), limit, func(n uint64, _ []byte) error {
		list = append(list, dfs.Ino(n))
		return nil
	})
	return list, err
}

// Masters lists the masters in order of id.
func (v View) Masters() ([]Master, error) {
	var list []Master
	err := v.r.Scan(key0(kindMaster), key0(kindMaster+1), func(k, b []byte) (bool, error) {
		m, err := decodeMaster(dfs.NodeID(number(k, 0)), b)
		list = append(list, m)
		return true, err
	})
	return list, err
}

// Chunk finds a chunk's record; false when there is none.
func (v View) Chunk(id dfs.ChunkID) (Chunk, bool, error) {
	c, err := v.chunk(id)
	if err != nil || c == nil {
		return Chunk{}, false, err
	}
	out, err := v.export(id, c)
	return out, err == nil, err
}

// Chunks lists chunk records with ids above after, at most limit.
func (v View) Chunks(after dfs.ChunkID, limit int) ([]Chunk, error) {
	var list []Chunk
	err := v.page(kindChunk, uint64(after), limit, func(n uint64, b []byte) error {
		c, err := decodeChunk(b)
		if err != nil {
			return err
		}
		out, err := v.export(dfs.ChunkID(n), c)
		list = append(list, out)
		return err
	})
	return list, err
}

// EachExtent calls fn for all extents of all files, until it fails.
func (v View) EachExtent(fn func(dfs.Extent) error) error {
	return v.r.Scan(key0(kindExtent), key0(kindExtent+1), func(k, b []byte) (bool, error) {
		e, err := decodeExtent(number(k, 1), b)
		if err != nil {
			return false, err
		}
		return true, fn(e)
	})
}

// export makes a record what others see: with the fragments that are there now.
func (v View) export(id dfs.ChunkID, c *chunk) (Chunk, error) {
	cl, err := v.cluster()
	if err != nil {
		return Chunk{}, err
	}
	home, err := v.home(id.PG(cl.buckets))
	return Chunk{
		ID: id, Present: c.presentNow(home), Committed: c.committed, Live: c.live, Sealed: c.sealed, Owner: c.owner,
	}, err
}

// Unsealed lists the chunks that a session may still write to, of those that it has
// committed something of.
func (v View) Unsealed(id dfs.SessionID) (list []Chunk, err error) {
	var ids []dfs.ChunkID
	err = v.r.Scan(key1(kindUnsealed, uint64(id)), after(kindUnsealed, uint64(id)), func(k, _ []byte) (bool, error) {
		ids = append(ids, dfs.ChunkID(number(k, 1)))
		return true, nil
	})
	for _, id := range ids {
		c, ok, cerr := v.Chunk(id)
		if err == nil {
			err = cerr
		}
		if ok {
			list = append(list, c)
		}
	}
	return list, err
}

// Droppable lists chunks that DropChunks would drop, with ids above after, at
// most limit.
func (v View) Droppable(after dfs.ChunkID, limit int) ([]dfs.ChunkID, error) {
	var list []dfs.ChunkID
	err := v.page(kindDroppable, uint64(after), limit, func(n uint64, _ []byte) error {
		list = append(list, dfs.ChunkID(n))
		return nil
	})
	return list, err
}

// page calls fn for the rows of a kind with numbers above the given one, at most
// limit times.
func (v View) page(kind byte, above uint64, limit int, fn func(n uint64, b []byte) error) error {
	if limit <= 0 {
		return nil
	}
	return v.r.Scan(after(kind, above), key0(kind+1), func(k, b []byte) (bool, error) {
		limit--
		return limit > 0, fn(number(k, 0), b)
	})
}

// Deletable says which of the chunks that a server holds nothing needs: no
// record, and not in what a live session may still write; or whole on the servers that
// they belong on, of which it is none.
func (v View) Deletable(server dfs.NodeID, chunks []dfs.ChunkID) ([]dfs.ChunkID, error) {
	is, err := v.Bootstrapped()
	if err != nil || !is {
		return nil, err
	}
	var granted []Range // found out when it is needed
	var list []dfs.ChunkID
	for _, id := range chunks {
		b, err := v.r.Get(key1(kindChunk, uint64(id)))
		if err != nil {
			return nil, err
		}
		if b != nil {
			moved, err := v.moved(server, id, b)
			if err != nil {
				return nil, err
			}
			if moved {
				list = append(list, id)
			}
			continue
		}
		if granted == nil {
			if granted, err = v.granted(); err != nil {
				return nil, err
			}
		}
		if !contains(granted, id.Seq()) {
			list = append(list, id)
		}
	}
	return list, nil
}

// moved reports whether a chunk is whole without what a server has of it.
func (v View) moved(server dfs.NodeID, id dfs.ChunkID, row []byte) (bool, error) {
	cl, err := v.cluster()
	if err != nil {
		return false, err
	}
	home, err := v.home(id.PG(cl.buckets))
	if err != nil || server == 0 || slices.ContainsFunc(home, func(p position) bool { return p.server == server }) {
		return false, err
	}
	c, err := decodeChunk(row)
	return err == nil && len(home) > 0 && c.sealed && c.committed > 0 && c.presentNow(home) == 1<<len(home)-1, err
}

// granted lists in order the sequence numbers of chunks that may have no record
// yet: those of live sessions, and those which nobody was given. The latter are
// none that this cluster could have lost, so a server holds them by mistake; a
// person must look.
func (v View) granted() ([]Range, error) {
	c, err := v.counters()
	if err != nil {
		return nil, err
	}
	list := []Range{{c.nextChunk, 1 << dfs.ChunkSeqBits}}
	if err := v.tallies(func(_ dfs.SessionID, t *tally) { list = append(list, t.chunks...) }); err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b Range) int { return cmp.Compare(a.From, b.From) })
	return list, nil
}

// contains finds n in ranges that are in order and do not overlap.
func contains(list []Range, n uint64) bool {
	i, found := slices.BinarySearchFunc(list, n, func(r Range, n uint64) int { return cmp.Compare(r.From, n) })
	return found && list[i].Contains(n) || i > 0 && list[i-1].Contains(n)
}

// Counters answers the state in numbers.
func (v View) Counters() (Counters, error) {
	c, err := v.counters()
	if err != nil {
		return Counters{}, err
	}
	sum := c.counts
	err = v.tallies(func(_ dfs.SessionID, t *tally) { sum.add(t.counts) })
	return Counters{
		Inodes: uint64(sum.files), Orphans: uint64(sum.orphans), Chunks: uint64(sum.records), Bytes: uint64(sum.bytes),
		Sessions: c.sessions, NextIno: c.nextIno, NextChunk: c.nextChunk, NextSession: c.nextSession,
	}, err
}

// The rows, nil or zero when they are absent.

func (v View) inode(ino dfs.Ino) (*inode, error) {
	var buf [9]byte
	b, err := v.r.Get(appendKey1(buf[:0], kindInode, uint64(ino)))
	if err != nil || b == nil {
		return nil, err
	}
	return decodeInode(ino, b)
}

// stale reads an inode that the caller knows by number: ESTALE when it is gone.
func (v View) stale(ino dfs.Ino) (*inode, error) {
	in, err := v.inode(ino)
	if err == nil && in == nil {
		err = dfs.ESTALE
	}
	return in, err
}

func (v View) chunk(id dfs.ChunkID) (*chunk, error) {
	b, err := v.r.Get(key1(kindChunk, uint64(id)))
	if err != nil || b == nil {
		return nil, err
	}
	return decodeChunk(b)
}

func (v View) tally(id dfs.SessionID) (*tally, error) {
	var buf [9]byte
	b, err := v.r.Get(appendKey1(buf[:0], kindTally, uint64(id)))
	if err != nil || b == nil {
		return nil, err
	}
	return decodeTally(b)
}

func (v View) counters() (counters, error) {
	b, err := v.r.Get(key0(kindCounters))
	if err != nil || b == nil {
		return counters{}, err
	}
	return decodeCounters(b)
}

func (v View) cluster() (cluster, error) {
	b, err := v.r.Get(key0(kindCluster))
	if err != nil || b == nil {
		return cluster{}, err
	}
	return decodeCluster(b)
}

func (v View) home(pg dfs.PG) ([]position, error) {
	b, err := v.r.Get(key1(kindHome, uint64(pg)))
	if err != nil || b == nil {
		return nil, err
	}
	return decodeHome(b)
}

// acting is the home of a placement group and, by position, which of its servers
// act now: dfs.ClusterMap.Derive for one group.
func (v View) acting(pg dfs.PG) (home []position, acting []dfs.NodeID, err error) {
	if home, err = v.home(pg); err != nil {
		return nil, nil, err
	}
	acting = make([]dfs.NodeID, len(home))
	for i, p := range home {
		if p.server == 0 {
			continue
		}
		b, err := v.r.Get(key1(kindServer, uint64(p.server)))
		if err != nil {
			return nil, nil, err
		}
		if b == nil {
			continue
		}
		s, err := decodeServer(p.server, b)
		if err != nil {
			return nil, nil, err
		}
		if s.State == dfs.ServerUp || s.State == dfs.ServerDrain {
			acting[i] = p.server
		}
	}
	return home, acting, nil
}

// EachRow calls fn for all rows, in order, until it fails: to compare two tables.
func (v View) EachRow(fn func(k, row []byte) error) error {
	return v.r.Scan([]byte{0}, []byte{0xff}, func(k, row []byte) (bool, error) { return true, fn(k, row) })
}
