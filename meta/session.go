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
	return tx.grant(tx.tally, inodes, chunks)
}

// grant gives a session numbers that nobody had before.
func (tx *tx) grant(t *tally, inodes, chunks uint64) (Reply, error) {
	c, err := tx.v.counters()
	if err != nil {
		return Reply{}, err
	}
	if c.nextIno+inodes > inodesEnd || c.nextChunk+chunks > 1<<dfs.ChunkSeqBits {
		return Reply{}, dfs.ENOSPC
	}
	var rep Reply
	if inodes > 0 {
		rep.Inodes = Range{c.nextIno, c.nextIno + inodes}
		t.inodes = addRange(t.inodes, rep.Inodes)
		c.nextIno += inodes
	}
	if chunks > 0 {
		rep.Chunks = Range{c.nextChunk, c.nextChunk + chunks}
		t.chunks = addRange(t.chunks, rep.Chunks)
		c.nextChunk += chunks
	}
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
	t := tx.tally
	for i, r := range t.chunks {
		if !r.Contains(seq) {
			continue
		}
		var list []Range // a new one: the command may yet be refused
		list = append(list, t.chunks[:i]...)
		if r.From < seq {
			list = append(list, Range{r.From, seq})
		}
		if seq+1 < r.To {
			list = append(list, Range{seq + 1, r.To})
		}
		list = append(list, t.chunks[i+1:]...)
		t.chunks = list[max(0, len(list)-rangesMax):]
		return true
	}
	return false
}

func (o *OpenSession) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	if o.Restrict&^(dfs.ReadOnly|dfs.SquashRoot) != 0 {
		return Reply{}, dfs.EINVAL // of a later version: it must not seem to be kept
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
	t := tally{restrict: o.Restrict}
	rep, err := tx.grant(&t, inodesFirst, chunksGrant)
	if err != nil {
		return Reply{}, err
	}
	if c, err = tx.v.counters(); err != nil {
		return Reply{}, err
	}
	rep.Session = dfs.SessionID(c.nextSession)
	c.nextSession++
	c.sessions++
	if err := tx.t.Set(key0(kindCounters), c.encode(nil)); err != nil {
		return Reply{}, err
	}
	id := uint64(rep.Session)
	s := Session{Nonce: o.Nonce, Host: o.Host, Mountpoint: o.Mountpoint, Version: o.Version, Opened: tx.c.Time}
	if err := tx.t.Set(key1(kindSession, id), encodeSession(nil, &s)); err != nil {
		return Reply{}, err
	}
	if err := tx.t.Set(key1(kindTally, id), t.encode(nil)); err != nil {
		return Reply{}, err
	}
	return rep, tx.t.Set(nonceKey, encodeNumber(nil, id))
}

// again answers a nonce that has its session. The client did not get the first
// answer, so it has used none of its numbers.
func (o *OpenSession) again(tx *tx, b []byte) (Reply, error) {
	id, err := decodeNumber("nonce", b)
	if err != nil {
		return Reply{}, err
	}
	t, err := tx.v.tally(dfs.SessionID(id))
	if err != nil {
		return Reply{}, err
	}
	rep := Reply{Session: dfs.SessionID(id)}
	if t != nil && len(t.inodes) > 0 {
		rep.Inodes = t.inodes[len(t.inodes)-1]
	}
	if t != nil && len(t.chunks) > 0 {
		rep.Chunks = t.chunks[len(t.chunks)-1]
	}
	return rep, nil
}

// apply takes at most PendingMax kept answers, the session's unsealed chunks and its locks
// away. A session that is gone already is no error.
func (o *CloseSession) apply(tx *tx) (Reply, error) {
	if tx.tally != nil && tx.c.Session != o.Session {
		return Reply{}, dfs.EPERM
	}
	s, ok, err := tx.v.Session(o.Session)
	if err != nil || !ok {
		return Reply{}, err
	}
	id := uint64(s.ID)
	t, err := tx.v.tally(s.ID)
	if err != nil || t == nil {
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
	if err := tx.unlockAll(s.ID); err != nil {
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
	list, err := tx.v.Unsealed(id)
	if err != nil {
		return err
	}
	for i := range list {
		c, err := tx.chunk(list[i].ID)
		if err != nil {
			return err
		}
		if c != nil {
			c.sealed, c.dirty = true, true
		}
	}
	return nil
}
