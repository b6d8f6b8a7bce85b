package meta

import "dfs"

// Sizes of grants. The first one of inode numbers is small: most sessions read.
const (
	inodesFirst = 16
	inodesGrant = 4096
	chunksGrant = 64
)

// rangesMax is how many ranges of numbers a session keeps of each sort: what it
// has not used of older ones it may not use any more.
const rangesMax = 16

// inodesEnd bounds inode numbers: the high 16 bits are the shard.
const inodesEnd = 1 << 48

func (o *GrantIDs) apply(tx *tx) (Reply, error) {
	if err := tx.needSession(); err != nil {
		return Reply{}, err
	}
	var inodes, chunks uint64
	if o.Inodes {
		inodes = inodesGrant
	}
	if o.Chunks {
		chunks = chunksGrant
	}
	return tx.grant(inodes, chunks)
}

// grant gives the session numbers that nobody had before.
func (tx *tx) grant(inodes, chunks uint64) (Reply, error) {
	c, err := tx.v.counters()
	if err != nil {
		return Reply{}, err
	}
	if c.nextIno+inodes > inodesEnd || c.nextChunk+chunks > 1<<dfs.ChunkSeqBits {
		return Reply{}, dfs.ENOSPC
	}
	var rep Reply
	s := tx.session
	if inodes > 0 {
		rep.Inodes = Range{c.nextIno, c.nextIno + inodes}
		s.Inodes = addRange(s.Inodes, rep.Inodes)
		c.nextIno += inodes
	}
	if chunks > 0 {
		rep.Chunks = Range{c.nextChunk, c.nextChunk + chunks}
		s.Chunks = addRange(s.Chunks, rep.Chunks)
		c.nextChunk += chunks
	}
	s.dirty = true
	return rep, tx.t.Set(key0(kindCounters), c.encode(nil))
}

// addRange adds a range above all others.
func addRange(list []Range, r Range) []Range {
	if n := len(list); n > 0 && list[n-1].To == r.From {
		list[n-1].To = r.To
		return list
	}
	list = append(list, r)
	return list[max(0, len(list)-rangesMax):]
}

// takeChunk takes a number out of those that the session may make chunks of;
// false when it is not among them.
func (tx *tx) takeChunk(seq uint64) bool {
	s := tx.session
	for i, r := range s.Chunks {
		if !r.Contains(seq) {
			continue
		}
		var list []Range
		list = append(list, s.Chunks[:i]...)
		if r.From < seq {
			list = append(list, Range{r.From, seq})
		}
		if seq+1 < r.To {
			list = append(list, Range{seq + 1, r.To})
		}
		list = append(list, s.Chunks[i+1:]...)
		s.Chunks = list[max(0, len(list)-rangesMax):]
		s.dirty = true
		return true
	}
	return false
}

func (o *OpenSession) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	if o.Nonce == 0 || len(o.Host) > hostMax || len(o.Mountpoint) > hostMax || len(o.Version) > hostMax {
		return Reply{}, dfs.EINVAL
	}
	nonceKey := key1(kindNonce, o.Nonce)
	b, err := tx.t.Get(nonceKey)
	if err != nil {
		return Reply{}, err
	}
	if b != nil {
		return o.again(tx, b)
	}
	c, err := tx.v.counters()
	if err != nil {
		return Reply{}, err
	}
	tx.session = &session{Session: Session{
		ID: dfs.SessionID(c.nextSession), Nonce: o.Nonce, Host: o.Host, Mountpoint: o.Mountpoint, Version: o.Version,
		Opened: tx.c.Time,
	}}
	rep, err := tx.grant(inodesFirst, chunksGrant)
	if err != nil {
		return Reply{}, err
	}
	if c, err = tx.v.counters(); err != nil {
		return Reply{}, err
	}
	c.nextSession++
	c.sessions++
	if err := tx.t.Set(key0(kindCounters), c.encode(nil)); err != nil {
		return Reply{}, err
	}
	rep.Session = tx.session.ID
	return rep, tx.t.Set(nonceKey, encodeNumber(nil, uint64(tx.session.ID)))
}

// again answers a nonce that has its session. The client did not get the first
// answer, so it has used none of its numbers.
func (o *OpenSession) again(tx *tx, b []byte) (Reply, error) {
	id, err := decodeNumber("nonce", b)
	if err != nil {
		return Reply{}, err
	}
	s, err := tx.v.session(dfs.SessionID(id))
	if err != nil {
		return Reply{}, err
	}
	rep := Reply{Session: dfs.SessionID(id)}
	if s != nil && len(s.Inodes) > 0 {
		rep.Inodes = s.Inodes[len(s.Inodes)-1]
	}
	if s != nil && len(s.Chunks) > 0 {
		rep.Chunks = s.Chunks[len(s.Chunks)-1]
	}
	return rep, nil
}

// apply takes at most PendingMax kept answers and the session's unsealed chunks
// away. A session that is gone already is no error.
func (o *CloseSession) apply(tx *tx) (Reply, error) {
	if tx.session != nil && tx.session.ID != o.Session {
		return Reply{}, dfs.EPERM
	}
	s, err := tx.v.session(o.Session)
	if err != nil || s == nil {
		return Reply{}, err
	}
	id := uint64(s.ID)
	t, err := tx.v.tally(s.ID)
	if err != nil {
		return Reply{}, err
	}
	c, err := tx.v.counters()
	if err != nil {
		return Reply{}, err
	}
	c.add(t.counts)
	c.sessions--
	if err := tx.t.Set(key0(kindCounters), c.encode(nil)); err != nil {
		return Reply{}, err
	}
	if err := tx.sealAll(s.ID); err != nil {
		return Reply{}, err
	}
	if err := tx.deleteRows(key1(kindReply, id), after(kindReply, id)); err != nil {
		return Reply{}, err
	}
	for _, k := range [...][]byte{key1(kindTally, id), key1(kindNonce, s.Nonce), key1(kindSession, id)} {
		if err := tx.t.Delete(k); err != nil {
			return Reply{}, err
		}
	}
	return Reply{}, nil
}

// sealAll seals the chunks that the session was still writing: nobody else does.
func (tx *tx) sealAll(id dfs.SessionID) error {
	var ids []dfs.ChunkID
	err := tx.t.Scan(key1(kindUnsealed, uint64(id)), after(kindUnsealed, uint64(id)), func(k, _ []byte) (bool, error) {
		ids = append(ids, dfs.ChunkID(number(k, 1)))
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		c, err := tx.chunk(id)
		if err != nil {
			return err
		}
		if c != nil {
			c.sealed, c.dirty = true, true
		}
	}
	return nil
}
