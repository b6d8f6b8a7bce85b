package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// AtimePolicy says of which reads the access time of an inode tells.
type AtimePolicy int

// The policies, those of mount(8).
const (
	Relatime    AtimePolicy = iota // the first after a change, and one a day
	NoAtime                        // none
	StrictAtime                    // the first after each opening, and those that the kernel has no pages for
)

// Bounds of what is told of reads.
const (
	atimeEvery = time.Second // the masters are told so often
	atimesMax  = 64 << 10    // inodes remembered until then
	atimeBatch = 2048        // in one request
)

// atimes are the times of reads that the masters have not been told of. Nobody waits for
// that, and no lease is recalled for it: other mounts see them when they ask the next time.
//
// Lock order: mu is the last of all.
type atimes struct {
	some atomic.Bool // there are any
	wake chan struct{}

	mu    sync.Mutex
	times map[dfs.Ino]dfs.Time // +checklocks:mu
}

// Accessed notes that a program reads an inode, which has these attributes, and reports
// whether its access time has become another by that.
func (fs *FS) Accessed(attr *dfs.Attr) bool {
	if fs.cfg.Atime == NoAtime || fs.cfg.Restrict&dfs.ReadOnly != 0 {
		return false
	}
	if fs.cfg.Atime == Relatime && attr.Atime.Compare(attr.Mtime) > 0 && attr.Atime.Compare(attr.Ctime) > 0 && time.Now().Unix()-attr.Atime.Sec < atimeFresh {
		return false // as AtimeDue, without the clock of the masters
	}
	at := fs.time()
	if fs.cfg.Atime == Relatime && !attr.AtimeDue(at) {
		return false
	}
	a := &fs.atimes
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, there := a.times[attr.Ino]; !there && len(a.times) >= atimesMax {
		return false
	}
	a.times[attr.Ino] = at
	a.some.Store(true)
	kick(a.wake)
	return true
}

const atimeFresh = 12 * 60 * 60 // seconds; an access time of then is fresh by any clock

// accessed is Accessed for what an open file was read by.
func (f *File) accessed(attr *dfs.Attr) {
	if f.flags&flagNoAtime == 0 {
		f.in.fs.Accessed(attr)
	}
}

// ReadUnseen is for a file that is opened for reading while the kernel has its pages: it
// says nothing of reads that it answers from those. It reports whether the access time has
// become another.
func (f *File) ReadUnseen() bool {
	if f.flags&(flagNoAtime|flagAccess) != flagRead {
		return false
	}
	return f.in.fs.accessedIno(f.in.ino)
}

// accessedIno is Accessed for an inode whose attributes may be in memory.
func (fs *FS) accessedIno(ino dfs.Ino) bool {
	attr, ok := fs.leases.attr(ino)
	if !ok {
		return fs.Accessed(&dfs.Attr{Ino: ino})
	}
	attr = fs.ours(attr)
	return fs.Accessed(&attr)
}

// withAtime adds to attributes when the inode was read here.
func (fs *FS) withAtime(attr dfs.Attr) dfs.Attr {
	a := &fs.atimes
	if !a.some.Load() {
		return attr
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if at, ok := a.times[attr.Ino]; ok {
		attr.Accessed(at, at)
	}
	return attr
}

// atimeLoop tells the masters of reads.
func (fs *FS) atimeLoop() {
	for {
		select {
		case <-fs.atimes.wake:
		case <-fs.ctx.Done():
			return
		}
		fs.sleep(atimeEvery)
		if err := fs.tellAtimes(fs.ctx); err != nil && fs.ctx.Err() == nil {
			fs.cfg.Logger.Debug("times of reads are not told", "err", err)
			kick(fs.atimes.wake)
		}
	}
}

// tellAtimes tells the masters of all reads so far, but of what they do not know yet.
func (fs *FS) tellAtimes(ctx context.Context) error {
	a := &fs.atimes
	for {
		m := &metapb.Access{}
		a.mu.Lock()
		for ino, at := range a.times {
			if len(m.Inos) == atimeBatch {
				break
			}
			m.Inos, m.Times = append(m.Inos, uint64(ino)), append(m.Times, rpc.TimeToProto(at))
		}
		a.mu.Unlock()
		if len(m.Inos) == 0 {
			return nil
		}
		if err := fs.lane.settle(ctx); err != nil { // what is still to be created
			return err
		}
		// Not again under another session: nothing is lost but the time of a read.
		reply, err := fs.mutate(ctx, fs.session.Load(), &metapb.Mutation{Op: &metapb.Mutation_Access{Access: m}})
		if err == nil {
			err = rpc.Errno(reply.Replies[0].Errno)
		}
		if err != nil {
			return err
		}
		for i, ino := range m.Inos {
			fs.toldAtime(dfs.Ino(ino), rpc.TimeFromProto(m.Times[i]))
		}
	}
}

// toldAtime takes over what the masters have been told: what is known here of the inode
// says it from now on.
func (fs *FS) toldAtime(ino dfs.Ino, at dfs.Time) {
	l := fs.leases
	l.mu.Lock()
	if n := l.nodes[ino]; n != nil && n.known {
		n.attr.Accessed(at, at)
	}
	l.mu.Unlock()
	if in := fs.find(ino); in != nil {
		in.mu.Lock()
		in.attr.Accessed(at, at)
		in.mu.Unlock()
		in.release()
	}
	a := &fs.atimes
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.times[ino] == at {
		delete(a.times, ino)
	}
	a.some.Store(len(a.times) > 0)
}
