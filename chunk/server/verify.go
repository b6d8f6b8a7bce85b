package server

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/proto/chunkpb"
	"dfs/proto/metapb"
)

// verifyMax is how many fragments one request may name.
const verifyMax = 4096

// Verify reads fragments that should be here, at the rate of repair, and answers once for
// each, in order.
func (s *Server) Verify(req *chunkpb.VerifyRequest, out grpc.ServerStreamingServer[chunkpb.VerifyReply]) error {
	if err := s.check(req.Cluster); err != nil {
		return err
	}
	if len(req.Fragments) > verifyMax {
		return status.Errorf(codes.InvalidArgument, "%d fragments to verify, at most %d at once", len(req.Fragments), verifyMax)
	}
	ctx := out.Context()
	for _, f := range req.Fragments {
		id := dfs.ChunkID(f.Chunk)
		var err error
		switch info, ok := s.store.Stat(id); {
		case !ok:
			err = fmt.Errorf("it is not here: %w", dfs.ENOENT)
		case f.End < dfs.FirstRecord:
			err = fmt.Errorf("nothing can end at %d: %w", f.End, dfs.EINVAL)
		case s.lacks(&metapb.Fragment{Chunk: f.Chunk, Fragment: f.Fragment, End: f.End}):
			err = fmt.Errorf("it is here up to %d of %d, damaged %v: %w", info.End, f.End, info.Damaged, dfs.EIO)
		case req.Quick:
			err = s.store.Look(id, f.End)
		default:
			err = s.store.Verify(id, f.End, func(n int) error { return s.mends.pace.wait(ctx, n) })
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && req.Repair {
			s.mends.missing(id)
			kick(s.mends.kick)
		}
		errno, text := verdict(err)
		if err := out.Send(&chunkpb.VerifyReply{Chunk: f.Chunk, Errno: errno, Error: text}); err != nil {
			return err
		}
	}
	return nil
}
