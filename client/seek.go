package client

import (
	"context"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// extentsSeek is how many extents one question is about.
const extentsSeek = 1024

// SeekData is lseek(2) with SEEK_DATA: where bytes that were written begin, from off on.
// ENXIO when there are none.
func (f *File) SeekData(ctx context.Context, off int64) (int64, error) {
	at, _, err := f.seek(ctx, off, func(pos, size int64, extents []dfs.Extent) (int64, bool) {
		if len(extents) == 0 {
			return size, true
		}
		return max(pos, int64(extents[0].Off)), true
	})
	if err == nil && at < 0 {
		err = dfs.ENXIO
	}
	return at, err
}

// SeekHole is lseek(2) with SEEK_HOLE: where a hole begins, from off on. The end of the
// file is one.
func (f *File) SeekHole(ctx context.Context, off int64) (int64, error) {
	at, size, err := f.seek(ctx, off, func(pos, size int64, extents []dfs.Extent) (int64, bool) {
		for _, e := range extents {
			if int64(e.Off) > pos {
				return pos, true
			}
			pos = int64(e.End())
		}
		return pos, false
	})
	if err == nil && at < 0 {
		at = size
	}
	return at, err
}

// seek goes through the extents from off on, until look answers where it ends. at is
// negative when that is the end of the file, or there are no more extents.
func (f *File) seek(ctx context.Context, off int64, look func(pos, size int64, extents []dfs.Extent) (at int64, done bool)) (at, size int64, err error) {
	in := f.in
	if off < 0 {
		return 0, 0, dfs.ENXIO
	}
	if err := in.flush(ctx); err != nil {
		return 0, 0, err
	}
	if err := in.fs.settleFor(ctx, in.ino); err != nil {
		return 0, 0, err
	}
	for {
		var reply *metapb.ExtentsReply
		err := in.fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
			reply, err = m.Extents(ctx, &metapb.ExtentsRequest{Ino: uint64(in.ino), Off: uint64(off), Limit: extentsSeek, Session: in.fs.leases.session()})
			return err
		})
		if err == nil {
			err = rpc.Errno(reply.Errno)
		}
		if err != nil {
			return 0, 0, err
		}
		size = int64(reply.Attr.GetSize())
		if off >= size {
			return 0, 0, dfs.ENXIO
		}
		extents := rpc.ExtentsFromProto(reply.Extents)
		at, done := look(off, size, extents)
		if at >= size {
			return -1, size, nil
		}
		if done {
			return at, size, nil
		}
		if !reply.More {
			return at, size, nil
		}
		off = at
	}
}
