package client

import (
	"context"
	"errors"
	"fmt"

	"dfs"
	appender "dfs/client/append"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// Bounds of moving bytes.
const (
	movesMax  = 8  // pieces of a file on their way: at most 8 MiB in memory
	moveTries = 16 // looks at a file that is written meanwhile
)

// Convert brings what is stored of a file to a layout, and gives what is written to it from
// now on that layout. Programs go on with the file meanwhile: bytes that they write over are left to
// them. The file's times do not change. progress is told of each part; it may be nil.
func (fs *FS) Convert(ctx context.Context, ino dfs.Ino, layout dfs.Layout, progress func(bytes uint64)) (dfs.Moved, error) {
	attr, err := fs.GetAttr(ctx, ino)
	if err != nil {
		return dfs.Moved{}, err
	}
	if !attr.IsFile() {
		return dfs.Moved{}, fmt.Errorf("inode %d is no regular file: %w", ino, dfs.EINVAL)
	}
	if attr.Layout != layout {
		_, _, err := fs.apply(ctx, &metapb.Mutation{Cred: rpc.CredToProto(dfs.Cred{Checked: true}), Op: &metapb.Mutation_SetPolicy{
			SetPolicy: &metapb.SetPolicy{Ino: uint64(ino), Layout: uint32(layout), KeepTimes: true},
		}}, ino)
		if err != nil {
			return dfs.Moved{}, err
		}
	}
	var sum dfs.Moved
	for range moveTries {
		m := &mover{fs: fs, layout: layout, progress: progress}
		m.file = fs.app.NewFile(ino, m)
		err := m.all(ctx, ino)
		sum.Bytes, sum.Left = sum.Bytes+m.moved, m.other
		if err != nil || m.other == 0 {
			return sum, err
		}
		if err := ctx.Err(); err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// mover brings the extents of one file to a layout, once.
type mover struct {
	fs     *FS
	layout dfs.Layout
	file   *appender.File
	other  uint64 // bytes that were in another layout when they were looked at
	moved  uint64
	failed error

	progress func(bytes uint64)
}

// Committed implements appender.Owner. Whether the bytes took their place is seen at the next look.
func (m *mover) Committed(pieces []*appender.Piece, _ []dfs.Extent, _ *dfs.Attr) {
	for _, p := range pieces {
		m.moved += uint64(len(p.Data))
		if m.progress != nil {
			m.progress(uint64(len(p.Data)))
		}
	}
}

// Failed implements appender.Owner.
func (m *mover) Failed(_ []*appender.Piece, err error) { m.failed = err }

// all moves what is in another layout.
func (m *mover) all(ctx context.Context, ino dfs.Ino) error {
	var run []dfs.Extent // one after the other in the file, together at most a record
	length, sent := 0, 0
	flush := func() error {
		if len(run) == 0 {
			return nil
		}
		seq, err := m.move(ctx, run, length)
		run, length = nil, 0
		if err != nil || seq == 0 {
			return err
		}
		if sent++; sent%movesMax == 0 {
			return m.wait(ctx, seq)
		}
		return nil
	}
	for off, more := uint64(0), true; more; {
		var reply *metapb.ExtentsReply
		err := m.fs.ask(ctx, func(ctx context.Context, c metapb.MetaClient) (err error) {
			reply, err = c.Extents(ctx, &metapb.ExtentsRequest{Ino: uint64(ino), Off: off, Limit: extentsPage})
			return err
		})
		if err == nil {
			err = rpc.Errno(reply.Errno)
		}
		if err != nil {
			return err
		}
		list := rpc.ExtentsFromProto(reply.Extents)
		more = reply.More && len(list) > 0
		for _, e := range list {
			off = e.End()
			if e.Chunk.Layout() == m.layout {
				continue
			}
			m.other += uint64(e.Len)
			if n := len(run); n > 0 && (run[n-1].End() != e.Off || length+int(e.Len) > dfs.RecordBytes) {
				if err := flush(); err != nil {
					return err
				}
			}
			run, length = append(run, e), length+int(e.Len)
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return m.wait(ctx, m.file.Last())
}

// move reads extents and hands their bytes to the appender. The sequence is 0 when the bytes are
// somewhere else already.
func (m *mover) move(ctx context.Context, run []dfs.Extent, length int) (seq uint64, err error) {
	data := make([]byte, length)
	parts := make([]part, len(run))
	at := 0
	for i, e := range run {
		parts[i] = part{extent: e, dst: data[at : at+int(e.Len)]}
		at += int(e.Len)
	}
	if err := m.fs.fetch(ctx, parts); errors.Is(err, errGone) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	seq = m.file.Submit(&appender.Piece{
		Off: int64(run[0].Off), Data: data, Buffer: appender.NewBuffer(data, func(*appender.Buffer) {}), Layout: m.layout, Was: run,
	})
	m.fs.app.Push()
	return seq, nil
}

// wait waits until pieces are settled.
func (m *mover) wait(ctx context.Context, seq uint64) error {
	if seq == 0 {
		return nil
	}
	ctx, cancel := m.fs.bound(ctx)
	defer cancel()
	if err := m.file.Wait(ctx, seq); err != nil {
		m.file.Discard(err)
		return err
	}
	return m.failed
}
