package server

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"dfs"
	"dfs/gossip"
	"dfs/meta"
	"dfs/rpc"
)

// Bounds of the space on the masters' disks. A master that cannot write its log must end; so
// long before, the leader refuses what makes the metadata grow.
const (
	spaceEvery   = time.Second // between looks at the free space
	spaceReserve = 1 << 30     // bytes, when the reserve is not configured
	spacePart    = 20          // a twentieth of the disk, if that is less
	spaceBack    = 10          // it is enough again when a tenth of the reserve more is free
	spaceLast    = 16          // with a sixteenth of the reserve, commits that may not be refused wait
)

// space is how full the disk of this master is, and whether that of the masters lets
// metadata grow.
type space struct {
	reserve uint64 // bytes; watchSpace's

	low  atomic.Bool // less than the reserve is free here
	full atomic.Bool // or on so many masters that the others are no majority
	last atomic.Bool // and little of it is left here
}

// watchSpace looks at the disk's space again and again.
func (s *Server) watchSpace() {
	for s.lookAtSpace(); pause(s.ctx, spaceEvery); s.lookAtSpace() {
	}
}

func (s *Server) lookAtSpace() {
	total, free, err := s.cfg.FS.Usage(s.cfg.Dir)
	if err != nil {
		s.logger.Debug("free space is not known", "err", err)
		return
	}
	if s.space.reserve == 0 {
		s.space.reserve = cmp.Or(s.cfg.Reserve, min(total/spacePart, spaceReserve))
	}
	reserve := s.space.reserve
	enough := reserve
	if s.space.low.Load() {
		enough += reserve / spaceBack
	}
	low := free < enough
	if s.space.low.Swap(low) != low {
		if low {
			s.logger.Error("the disk is full up to the reserve", "dir", s.cfg.Dir, "free", free, "reserve", reserve)
		} else {
			s.logger.Info("the disk has room again", "dir", s.cfg.Dir, "free", free)
		}
	}
	s.space.last.Store(free < reserve/spaceLast)
	masters, others := 0, 0
	if g := s.gossipNode(); g != nil {
		var f gossip.Figures
		if low {
			f.Trouble = gossip.DiskReserve
		}
		g.Update(f)
		for _, m := range g.Members() {
			if m.Role != gossip.RoleMaster {
				continue
			}
			masters++
			if m.Trouble&gossip.DiskReserve != 0 {
				others++
			}
		}
	}
	s.space.full.Store(low || others > 0 && masters-others < masters/2+1)
}

// refusal is a change that the state always refuses, and remembers to have refused: in the place
// of one for which there is no room it makes sure that a retry finds the same.
var refusal = &meta.Rename{Flags: ^uint32(0)}

// withinSpace replaces changes that make the metadata grow while there is no room for that.
// refused says which. What programs may have been told to be durable is not refused, but waits
// when even the reserve is used up.
func (s *Server) withinSpace(ctx context.Context, commands []meta.Command) (allowed []meta.Command, refused []bool, err error) {
	if !s.space.full.Load() {
		return commands, nil, nil
	}
	allowed, refused = make([]meta.Command, len(commands)), make([]bool, len(commands))
	for i, c := range commands {
		switch op := c.Op.(type) {
		case *meta.Link, *meta.SetXattr, *meta.CopyRange:
			refused[i] = true
		case *meta.Create:
			if refused[i], err = s.makes(ctx, op); err != nil {
				return nil, nil, err
			}
		case *meta.Commit:
			grows, owed := growth(op)
			if owed && s.space.last.Load() {
				return nil, nil, rpc.Unavailable("the disks of the masters are full")
			}
			refused[i] = grows && !owed
		}
		if refused[i] {
			s.metrics.refused.WithLabelValues("no_space").Inc()
			c.Op = refusal
		}
		allowed[i] = c
	}
	return allowed, refused, nil
}

// growth reports whether a commit adds extents, and whether some of them may have been
// acknowledged before.
func growth(op *meta.Commit) (grows, owed bool) {
	for i := range op.Files {
		f := &op.Files[i]
		grows = grows || len(f.Extents) > 0
		owed = owed || f.Seq != 0 || f.Move
	}
	return grows, owed
}

// makes reports whether there is nothing yet that open(O_CREAT) could open.
func (s *Server) makes(ctx context.Context, op *meta.Create) (bool, error) {
	if op.Excl || op.Tmpfile {
		return true, nil
	}
	found := false
	err := s.read(ctx, func(v meta.View) error {
		_, err := v.Lookup(dfs.Cred{Checked: true}, op.Parent, op.Name)
		found = err == nil
		_, failure := verdict(err)
		return failure
	})
	return !found, err
}
