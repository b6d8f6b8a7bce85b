package meta

import (
	"time"

	"dfs"
)

// restoreJump is by how much numbers go up when metadata is restored: more than can have
// been given out since the backup, so that none is given twice.
const restoreJump = 1 << 32

// Restored makes rows that come from a backup the beginning of what follows: all clients of
// then are gone, what they held is free, numbers go on far above what was given out since,
// and no chunk that chunk servers have is deleted before keep. Masters are forgotten: who
// has the rows is the first. Program is the version that does it.
func Restored(t Table, at, keep dfs.Time, program string) error {
	v := NewView(t)
	sessions, err := v.Sessions()
	if err != nil {
		return err
	}
	masters, err := v.Masters()
	if err != nil {
		return err
	}
	var ops []Op
	for _, s := range sessions {
		ops = append(ops, &CloseSession{Session: s.ID})
	}
	for _, m := range masters {
		ops = append(ops, &RemoveMaster{ID: m.ID})
	}
	ops = append(ops,
		&SetLevel{Level: Level, Program: program},
		&SetConfig{Name: "keep-unknown-until", Value: time.Unix(keep.Sec, 0).UTC().Format(time.RFC3339)})
	for _, op := range ops {
		rep, err := Apply(t, Command{Time: at, Op: op})
		if err == nil && rep.Errno != dfs.OK {
			err = rep.Errno
		}
		if err != nil {
			return err
		}
	}
	c, err := v.counters()
	if err != nil {
		return err
	}
	c.nextIno += restoreJump
	c.nextChunk += restoreJump
	c.nextSession += restoreJump
	cl, err := v.cluster()
	if err != nil {
		return err
	}
	cl.epoch += restoreJump
	token := uint64(0)
	b, err := t.Get(key0(kindToken))
	if err != nil {
		return err
	}
	if b != nil {
		if token, err = decodeNumber("token", b); err != nil {
			return err
		}
	}
	for _, row := range []struct {
		kind  byte
		value []byte
	}{{kindCounters, c.encode(nil)}, {kindCluster, cl.encode(nil)}, {kindToken, encodeNumber(nil, token+restoreJump)}} {
		if err := t.Set(key0(row.kind), row.value); err != nil {
			return err
		}
	}
	return nil
}
