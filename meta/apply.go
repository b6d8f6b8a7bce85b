package meta

import (
	"errors"
	"fmt"

	"dfs"
	"dfs/internal/invariant"
)

// PendingMax is how many answers of one session are kept at most; a session that
// does not acknowledge is refused (EINVAL) beyond that.
const PendingMax = 1 << 16

// Apply carries out one command. The error means that the store is broken or
// holds what this version cannot read: the master must stop, since it can no
// longer do what the others do.
func Apply(t Table, c Command) (Reply, error) {
	return apply(t, &c, hashName)
}

func apply(t Table, c *Command, hash func(string) uint64) (Reply, error) {
	tx := &tx{t: t, c: c, v: View{r: t, hash: hash}}
	if c.Op == nil {
		return Reply{Errno: dfs.EINVAL}, nil
	}
	if c.Session == 0 {
		return tx.applyOwn()
	}
	return tx.applySession()
}

// applyOwn carries out a command of the masters themselves. They make their
// commands so that repeating one does no harm.
func (tx *tx) applyOwn() (Reply, error) {
	if _, ok := tx.c.Op.(*Bootstrap); !ok {
		// Nothing can be done to a table without a file system.
		if is, err := tx.v.Bootstrapped(); err != nil || !is {
			return Reply{Errno: dfs.ENXIO}, err
		}
	}
	rep, err := tx.run()
	if err != nil || tx.counts == (counts{}) {
		return rep, err
	}
	c, err := tx.v.counters()
	if err != nil {
		return Reply{}, err
	}
	c.add(tx.counts)
	return rep, tx.t.Set(key0(kindCounters), c.encode(nil))
}

// applySession carries out a command of a client, once.
func (tx *tx) applySession() (Reply, error) {
	c := tx.c
	var err error
	if tx.tally, err = tx.v.tally(c.Session); err != nil {
		return Reply{}, err
	}
	if tx.tally == nil {
		return Reply{Expired: true}, nil
	}
	tally := tx.tally
	switch {
	case c.Seq == 0:
		return Reply{Errno: dfs.EINVAL}, nil
	case c.Seq < tally.acked, c.Seq < c.Acked:
		return Reply{Duplicate: true}, nil
	case c.Seq <= tally.last:
		// It may have been carried out; above last it certainly was not.
		b, err := tx.t.Get(key2(kindReply, uint64(c.Session), c.Seq))
		if err != nil {
			return Reply{}, err
		}
		if b != nil {
			rep, err := decodeReply(b)
			rep.Replayed = true
			return rep, err
		}
	case c.Seq-max(tally.acked, c.Acked) >= PendingMax:
		return Reply{Errno: dfs.EINVAL}, nil
	}

	c.Cred = tally.restrict.Squash(c.Cred)
	inodes, chunks := tally.inodes, tally.chunks
	rep, err := tx.run()
	if err != nil {
		return Reply{}, err
	}
	if rep.Errno != dfs.OK || rep.StaleMap {
		tally.inodes, tally.chunks = inodes, chunks
	}
	if op, ok := c.Op.(*CloseSession); ok && op.Session == c.Session && rep.Errno == dfs.OK {
		return rep, nil // nothing is left to keep the answer in
	}
	if c.Acked > tally.acked {
		if err := tx.forget(tally.acked, c.Acked); err != nil {
			return Reply{}, err
		}
		tally.acked = c.Acked
	}
	tally.last = max(tally.last, c.Seq)
	tally.add(tx.counts)
	if err := tx.t.Set(appendKey1(tx.key[:0], kindTally, uint64(c.Session)), tally.encode(tx.value[:0])); err != nil {
		return Reply{}, err
	}
	k := appendKey2(tx.key[:0], kindReply, uint64(c.Session), c.Seq)
	return rep, tx.t.Set(k, encodeReply(tx.value[:0], &rep))
}

// run carries out the operation and turns a verdict into its reply.
func (tx *tx) run() (Reply, error) {
	var rep Reply
	err := tx.restricted()
	if err == nil {
		rep, err = tx.c.Op.apply(tx)
	}
	if err == nil && rep.StaleMap {
		tx.refused()
		return rep, nil
	}
	if err == nil {
		rep.Orphaned = tx.orphans
		return rep, tx.flush()
	}
	var verdict dfs.Errno
	if !errors.As(err, &verdict) {
		return Reply{}, err
	}
	tx.refused()
	rep.Errno = verdict
	rep.Attr = nil
	return rep, nil
}

// restricted refuses what the session may not do.
func (tx *tx) restricted() error {
	if tx.tally == nil || tx.tally.restrict&dfs.ReadOnly == 0 {
		return nil
	}
	switch tx.c.Op.(type) {
	case *GrantIDs, *CloseSession, *SetLock, *PutLocks:
		return nil // of the session, not of the file system
	}
	return dfs.EROFS
}

// refused forgets what the operation did in memory.
func (tx *tx) refused() {
	invariant.Check(len(tx.orphans) == 0, "meta: %T was refused after it had orphaned %v", tx.c.Op, tx.orphans)
	tx.counts = counts{}
}

// forgetOneByOne is up to how many answers are deleted by key, without looking
// which of them exist.
const forgetOneByOne = 64

// forget deletes the kept answers of the session from sequence from up to to.
func (tx *tx) forget(from, to uint64) error {
	id := uint64(tx.c.Session)
	if to-from <= forgetOneByOne {
		for seq := max(from, 1); seq < to; seq++ {
			if err := tx.t.Delete(appendKey2(tx.key[:0], kindReply, id, seq)); err != nil {
				return err
			}
		}
		return nil
	}
	return tx.deleteRows(key2(kindReply, id, from), key2(kindReply, id, to))
}

// deleteRows deletes all rows in [lo, hi).
func (tx *tx) deleteRows(lo, hi []byte) error {
	_, err := tx.deleteSome(lo, hi, -1)
	return err
}

// deleteSome deletes at most limit rows in [lo, hi), all when it is negative, and
// answers how many.
func (tx *tx) deleteSome(lo, hi []byte, limit int) (int, error) {
	if limit == 0 {
		return 0, nil
	}
	var keys [][]byte
	err := tx.t.Scan(lo, hi, func(k, _ []byte) (bool, error) {
		keys = append(keys, append([]byte(nil), k...))
		return len(keys) != limit, nil
	})
	if err != nil {
		return 0, err
	}
	for _, k := range keys {
		if err := tx.t.Delete(k); err != nil {
			return 0, err
		}
	}
	return len(keys), nil
}

// needSession refuses commands that only a client's session can give.
func (tx *tx) needSession() error {
	if tx.tally == nil {
		return dfs.EINVAL
	}
	return nil
}

// needOwn refuses commands that only the masters themselves can give.
func (tx *tx) needOwn() error {
	if tx.tally != nil {
		return fmt.Errorf("%T by a session: %w", tx.c.Op, dfs.EINVAL)
	}
	return nil
}
