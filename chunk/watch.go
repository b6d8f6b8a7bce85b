package chunk

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"dfs"
)

// Bounds of what is found out about disks.
const (
	hangAfter = 10 * time.Second // an operation that takes longer hangs, when nothing else is configured

	syncsMin   = 4                     // of which it is said how long they take
	probeAbove = 20 * time.Millisecond // a disk whose syncs take so long is probed when nobody uses it
	probeAfter = 10 * time.Second      // since the last sync
	probeName  = "probe"               // the file that is written for that
)

// ErrHung is the cause when a disk does not answer. Nothing is asked of it until it does.
var ErrHung = errors.New("the disk does not answer")

// Condition is how the disks of a store are.
type Condition struct {
	Sync       time.Duration // what a sync usually takes on the slowest of them, 0: not known
	Hung       []string      // data folders whose disk does not answer
	Unreadable []string      // data folders that could not be read when the store was opened, or since
}

// Condition tells how the disks are.
func (s *Store) Condition() Condition {
	c := Condition{Unreadable: slices.Clone(s.broken)}
	now := time.Now()
	for _, v := range s.volumes {
		switch {
		case v.hung.Load():
			c.Hung = append(c.Hung, v.dir)
		case v.failed.Load() || v.broken.Load():
			c.Unreadable = append(c.Unreadable, v.dir)
		}
		if d, n := v.fs.SyncTime(now); n >= syncsMin {
			c.Sync = max(c.Sync, d, time.Microsecond) // 0 would say that it is not known
		}
	}
	return c
}

// Hung says that the disk of a chunk does not answer, nil when it does.
func (s *Store) Hung(id dfs.ChunkID) error {
	if c := s.find(id); c != nil {
		return c.volume.answers()
	}
	return nil
}

// answers is an error while the disk hangs.
func (v *volume) answers() error {
	if v.hung.Load() {
		return fmt.Errorf("data folder %s: %w: %w", v.dir, ErrHung, dfs.EIO)
	}
	return nil
}

// look keeps the figures of free space of a volume fresh.
func (s *Store) look(v *volume, interval time.Duration) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		}
		failed := v.failed.Load()
		err := v.look()
		if err != nil && !failed {
			s.logger.Error("data folder cannot be read", "dir", v.dir, "err", err)
		}
		if err == nil {
			v.probe(time.Now())
		}
	}
}

// probe syncs something on a disk that was slow and that nobody uses any more, to find out when
// it is well again.
func (v *volume) probe(now time.Time) {
	median, _ := v.fs.SyncTime(now)
	last, took := v.fs.LastSync()
	if max(median, took) < probeAbove || now.Sub(last) < probeAfter {
		return
	}
	f, err := v.fs.OpenFile(path.Join(v.dir, probeName), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return // those who need the disk will say so
	}
	defer f.Close()
	if _, err := f.WriteAt(zeros[:dfs.PageBytes], 0); err == nil {
		_ = f.Sync() // only its time counts
	}
}

// watch finds out which disks do not answer.
func (s *Store) watch(interval, limit time.Duration) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		}
		for _, v := range s.volumes {
			op, name, d := v.fs.Longest(time.Now())
			hung := d >= limit
			if v.hung.Swap(hung) == hung {
				continue
			}
			if hung {
				s.logger.Error("disk does not answer", "dir", v.dir, "operation", op.String(), "file", name, "for", d.Round(time.Millisecond))
			} else {
				s.logger.Info("disk answers again", "dir", v.dir)
			}
		}
	}
}
