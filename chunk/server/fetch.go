package server

import (
	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/chunkpb"
)

const fetchFrame = 512 << 10 // bytes in one message of Fetch

// Fetch streams a part of a fragment's file.
func (s *Server) Fetch(req *chunkpb.FetchRequest, out grpc.ServerStreamingServer[chunkpb.FetchReply]) error {
	if err := s.check(req.Cluster); err != nil {
		return err
	}
	for off := req.From; off < min(req.To, dfs.ChunkBytes); {
		buf := make([]byte, min(fetchFrame, req.To-off)) // gRPC may still read the one before
		raw, err := s.store.ReadRaw(dfs.ChunkID(req.Chunk), off, buf)
		if err != nil {
			errno, text := verdict(err)
			return out.Send(&chunkpb.FetchReply{Errno: errno, Error: text})
		}
		if len(raw.Data) == 0 {
			return nil
		}
		if err := out.Send(&chunkpb.FetchReply{Fragment: raw.Fragment, Session: uint64(raw.Session), Data: raw.Data}); err != nil {
			return err
		}
		off += uint32(len(raw.Data))
	}
	return nil
}
