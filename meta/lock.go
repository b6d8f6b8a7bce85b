package meta

import (
	"encoding/binary"
	"errors"
	"fmt"

	"dfs"
)

// locksMax is how many locks one session can hold of one file.
const locksMax = 4096

// Held is a lock and who holds it.
type Held struct {
	Ino     dfs.Ino // of a file, or dfs.LockNameIno
	Session dfs.SessionID
	dfs.Lock
}

func (o *SetLock) apply(tx *tx) (Reply, error) {
	if err := tx.needSession(); err != nil {
		return Reply{}, err
	}
	if !o.Closed && (!o.Lock.Valid() || o.Ino.IsLockName() != (o.Lock.Kind == dfs.LockName)) {
		return Reply{}, dfs.EINVAL
	}
	if o.Refuse {
		return Reply{}, dfs.EAGAIN
	}
	if !o.Closed && o.Lock.Type != dfs.Unlocked {
		return o.lock(tx)
	}
	mine, err := tx.v.locksOf(o.Ino, tx.c.Session)
	if err != nil || mine == nil {
		return Reply{}, err
	}
	next := mine.Set(o.Lock)
	if o.Closed {
		next = mine.Closed(o.Lock.File)
	}
	if len(next) > locksMax {
		return Reply{}, dfs.ENOLCK // a hole in one makes two
	}
	return Reply{}, tx.putLocks(o.Ino, next)
}

// lock gives the session a lock.
func (o *SetLock) lock(tx *tx) (Reply, error) {
	if !o.Ino.IsLockName() {
		if _, err := tx.stale(o.Ino); err != nil {
			return Reply{}, err
		}
	}
	var mine dfs.Locks
	err := tx.v.locks(o.Ino, func(session dfs.SessionID, ls dfs.Locks) error {
		if session == tx.c.Session {
			mine = ls
		} else if _, is := ls.Against(o.Lock); is {
			return dfs.EAGAIN
		}
		return nil
	})
	if err != nil {
		return Reply{}, err
	}
	if _, is := mine.Conflict(o.Lock); is {
		return Reply{}, dfs.EAGAIN
	}
	set := o.Lock
	set.Token = 0
	if o.Ino.IsLockName() {
		if set.Token, err = tx.nextToken(); err != nil {
			return Reply{}, err
		}
	}
	if mine = mine.Set(set); len(mine) > locksMax {
		return Reply{}, dfs.ENOLCK
	}
	return Reply{Token: set.Token}, tx.putLocks(o.Ino, mine)
}

func (o *PutLocks) apply(tx *tx) (Reply, error) {
	if err := tx.needSession(); err != nil {
		return Reply{}, err
	}
	if len(o.Locks) > locksMax {
		return Reply{}, dfs.ENOLCK
	}
	var mine dfs.Locks
	for _, l := range o.Locks {
		if _, is := mine.Conflict(l); is || !l.Valid() || l.Type == dfs.Unlocked || l.Kind == dfs.LockName {
			return Reply{}, dfs.EINVAL
		}
		mine = mine.Set(l)
	}
	if len(mine) > 0 {
		if _, err := tx.stale(o.Ino); err != nil {
			return Reply{}, err
		}
	}
	err := tx.v.locks(o.Ino, func(session dfs.SessionID, ls dfs.Locks) error {
		for _, l := range mine {
			if _, is := ls.Against(l); is && session != tx.c.Session {
				return dfs.EAGAIN
			}
		}
		return nil
	})
	if err != nil {
		return Reply{}, err
	}
	return Reply{}, tx.putLocks(o.Ino, mine)
}

func (tx *tx) nextToken() (uint64, error) {
	b, err := tx.t.Get(key0(kindToken))
	if err != nil {
		return 0, err
	}
	var last uint64
	if b != nil {
		if last, err = decodeNumber("token", b); err != nil {
			return 0, err
		}
	}
	return last + 1, tx.t.Set(key0(kindToken), encodeNumber(nil, last+1))
}

// putLocks writes what the session holds.
func (tx *tx) putLocks(ino dfs.Ino, ls dfs.Locks) error {
	row, marker := key2(kindLock, uint64(ino), uint64(tx.c.Session)), key2(kindLocked, uint64(tx.c.Session), uint64(ino))
	if len(ls) == 0 {
		return errors.Join(tx.t.Delete(row), tx.t.Delete(marker))
	}
	return errors.Join(tx.t.Set(row, encodeLocks(nil, ls)), tx.t.Set(marker, markerRow))
}

// unlockAll takes all locks of a session away.
func (tx *tx) unlockAll(id dfs.SessionID) error {
	var inos []uint64
	lo, hi := key1(kindLocked, uint64(id)), after(kindLocked, uint64(id))
	err := tx.t.Scan(lo, hi, func(k, _ []byte) (bool, error) {
		inos = append(inos, number(k, 1))
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, ino := range inos {
		if err := tx.t.Delete(key2(kindLock, ino, uint64(id))); err != nil {
			return err
		}
	}
	return tx.deleteRows(lo, hi)
}

// locks calls fn for each session that has locks of a file, until it fails.
func (v View) locks(ino dfs.Ino, fn func(dfs.SessionID, dfs.Locks) error) error {
	return v.r.Scan(key1(kindLock, uint64(ino)), after(kindLock, uint64(ino)), func(k, b []byte) (bool, error) {
		ls, err := decodeLocks(b)
		if err != nil {
			return false, err
		}
		return true, fn(dfs.SessionID(number(k, 1)), ls)
	})
}

// locksOf is what one session holds of a file.
func (v View) locksOf(ino dfs.Ino, session dfs.SessionID) (dfs.Locks, error) {
	b, err := v.r.Get(key2(kindLock, uint64(ino), uint64(session)))
	if err != nil || b == nil {
		return nil, err
	}
	return decodeLocks(b)
}

// Conflicts lists the locks that are in the way of one which a session wants.
func (v View) Conflicts(session dfs.SessionID, ino dfs.Ino, want dfs.Lock) ([]Held, error) {
	var out []Held
	err := v.locks(ino, func(holder dfs.SessionID, ls dfs.Locks) error {
		for _, l := range ls {
			if same := holder == session; l.Excludes(want, same) && !(same && l.Owner == want.Owner) {
				out = append(out, Held{ino, holder, l})
			}
		}
		return nil
	})
	return out, err
}

// Holds reports whether a session has locks of a file at all, and whether an owner has
// some of a kind.
func (v View) Holds(session dfs.SessionID, ino dfs.Ino, kind dfs.LockKind, owner uint64) (any, own bool, err error) {
	ls, err := v.locksOf(ino, session)
	return len(ls) > 0, ls.Holds(kind, owner), err
}

// Locks lists locks in order of their inodes, after the inode after; all of an inode, and
// no more inodes when there are limit.
func (v View) Locks(after dfs.Ino, limit int) ([]Held, error) {
	var out []Held
	lo := key1(kindLock, uint64(after)+1)
	err := v.r.Scan(lo, key0(kindLock+1), func(k, b []byte) (bool, error) {
		ino := dfs.Ino(number(k, 0))
		if len(out) >= limit && out[len(out)-1].Ino != ino {
			return false, nil
		}
		ls, err := decodeLocks(b)
		for _, l := range ls {
			out = append(out, Held{ino, dfs.SessionID(number(k, 1)), l})
		}
		return true, err
	})
	return out, err
}

// Parts of a lock's row that need not be there.
const (
	lockToken = 1 << iota
	lockName
	lockMount
	lockEnd
)

func encodeLocks(b []byte, ls dfs.Locks) []byte {
	b = append(b, rowVersion)
	b = binary.AppendUvarint(b, uint64(len(ls)))
	for _, l := range ls {
		var has uint64
		if l.Token != 0 {
			has |= lockToken
		}
		if l.Name != "" {
			has |= lockName
		}
		if l.Mount {
			has |= lockMount
		}
		for _, n := range [...]uint64{has, uint64(l.Kind), uint64(l.Type), l.Owner, l.File, l.Start, l.End - l.Start, uint64(l.PID)} {
			b = binary.AppendUvarint(b, n)
		}
		if l.Token != 0 {
			b = binary.AppendUvarint(b, l.Token)
		}
		if l.Name != "" {
			b = appendString(b, l.Name)
		}
	}
	return b
}

func decodeLocks(b []byte) (dfs.Locks, error) {
	d := decode("lock", b)
	var ls dfs.Locks
	for range d.count(8) {
		has := d.uvarint()
		if has >= lockEnd {
			d.fail(fmt.Errorf("unknown parts %#x", has))
		}
		l := dfs.Lock{Kind: dfs.LockKind(d.uvarint32()), Type: dfs.LockType(d.uvarint32()), Owner: d.uvarint(), File: d.uvarint(), Start: d.uvarint()}
		l.End = l.Start + d.uvarint()
		l.Mount = has&lockMount != 0
		l.PID = d.uvarint32()
		if has&lockToken != 0 {
			l.Token = d.uvarint()
		}
		if has&lockName != 0 {
			l.Name = d.string(dfs.NameMax)
		}
		if d.err == nil && (!l.Valid() || l.Type == dfs.Unlocked) {
			d.fail(fmt.Errorf("impossible lock %+v", l))
		}
		ls = append(ls, l)
	}
	return ls, d.done()
}

// readLocks judges the rows of locks.
func (c *checker) readLocks() {
	rows := map[[2]uint64]bool{}
	c.each(kindLock, 2, func(k, b []byte) error {
		ino, session := number(k, 0), number(k, 1)
		rows[[2]uint64{session, ino}] = true
		if c.sessions[dfs.SessionID(session)] == nil {
			c.ino(dfs.Ino(ino), "is locked by session %x, which is none", session)
		}
		ls, err := decodeLocks(b)
		if err == nil && len(ls) == 0 {
			err = errors.New("no lock in it")
		}
		return err
	})
	c.each(kindLocked, 2, func(k, _ []byte) error {
		key := [2]uint64{number(k, 0), number(k, 1)}
		if !rows[key] {
			c.ino(dfs.Ino(key[1]), "is marked as locked by session %x, and is not", key[0])
		}
		delete(rows, key)
		return nil
	})
	for key := range rows {
		c.ino(dfs.Ino(key[1]), "is locked by session %x without a marker", key[0])
	}
}
