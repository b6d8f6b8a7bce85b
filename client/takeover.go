package client

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/metapb"
)

// adoptMany is how many files of a process that died are opened at the same time.
const adoptMany = 16

// Adopted is a file that a program has open through a process that served the mount
// before this one.
type Adopted struct {
	Ino   dfs.Ino
	Flags uint32
	Cred  dfs.Cred
	Lost  bool // bytes were written to it that were not committed
}

// Adopt takes over open files, in their order: the masters are told with a heartbeat, so
// that files without a name stay when the session before is ended. They can be used after
// Reopen.
func (fs *FS) Adopt(ctx context.Context, opens []Adopted) ([]*File, error) {
	files := make([]*File, len(opens))
	for i, o := range opens {
		files[i] = newFile(fs.hold(o.Ino), o.Cred, o.Flags, false)
	}
	ctx, cancel := fs.bound(ctx)
	defer cancel()
	_, err := fs.beat(ctx, fs.session.Load(), beat{complete: true})
	return files, err
}

// Reopen asks the masters for the attributes and extents of adopted files, once the
// session before has ended and cannot change them any more. Of a file that has lost
// bytes, or that is not there any more since its creation was lost, fsync or close fails
// once for each who has it open.
func (fs *FS) Reopen(ctx context.Context, opens []Adopted, files []*File) {
	lost := map[*inode]bool{}
	first := map[*inode]int{}
	for i, f := range files {
		if _, ok := first[f.in]; !ok {
			first[f.in] = i
		}
		lost[f.in] = lost[f.in] || opens[i].Lost
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	turns := make(chan struct{}, adoptMany)
	for in, i := range first {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			if err := in.open(ctx, opens[i].Cred, opens[i].Flags&^flagTrunc); err != nil {
				fs.cfg.Logger.Error("a file that a program has open cannot be opened again", "inode", uint64(in.ino), "err", err)
				mu.Lock()
				lost[in] = true
				mu.Unlock()
				return
			}
			fs.mu.Lock()
			in.registered = true
			fs.mu.Unlock()
		})
	}
	wg.Wait()
	for in, lost := range lost {
		if lost {
			fs.cfg.Logger.Error("bytes that were written and not synced are lost: the next fsync or close says so", "inode", uint64(in.ino))
			in.lose(dfs.EIO)
		}
	}
}

// EndSession ends a session of a process that died: its leases, and what it has sent and
// nobody will hear the answer of. A session that is gone is no error.
func (fs *FS) EndSession(ctx context.Context, id dfs.SessionID) error {
	ctx, cancel := fs.bound(ctx)
	defer cancel()
	return fs.masters.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := metapb.NewMetaClient(conn).CloseSession(ctx, &metapb.CloseSessionRequest{Session: uint64(id)})
		return err
	})
}

// LostChanges says that a process before this one died with changes of names and attributes
// that it had not told the masters: the next fsync of anything fails, as when a session ends.
func (fs *FS) LostChanges() {
	fs.cfg.Logger.Error("changes of names and attributes that were not synced are lost: the next fsync says so")
	fs.lane.mu.Lock()
	defer fs.lane.mu.Unlock()
	fs.lane.lost = errLost
}

// Clean reports whether all bytes of the file that were written here are durable.
func (f *File) Clean() bool {
	f.in.mu.Lock()
	defer f.in.mu.Unlock()
	return len(f.in.dirty.segs) == 0 && (len(f.in.flight) == 0 || f.in.file.Acknowledged())
}
