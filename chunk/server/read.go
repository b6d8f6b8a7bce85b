package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/chunk"
	"dfs/chunk/record"
	"dfs/proto/chunkpb"
	"dfs/rpc"
)

// check refuses a request that names another cluster; naming none is fine, for the
// call itself was checked.
func (s *Server) check(cluster uint64) error {
	if own := s.store.Cluster(); cluster != 0 && dfs.ClusterID(cluster) != own {
		return status.Errorf(codes.FailedPrecondition, "wrong cluster: the request is of cluster %s, this server is of cluster %s",
			dfs.ClusterID(cluster), own)
	}
	return s.gone()
}

// Read answers pages of a record with their checksums.
func (s *Server) Read(ctx context.Context, req *chunkpb.ReadRequest) (*chunkpb.ReadReply, error) {
	if err := s.check(req.Cluster); err != nil {
		return nil, err
	}
	s.busy.note(time.Now())
	p := record.Piece{
		Chunk: dfs.ChunkID(req.Chunk), Fragment: req.Fragment, Record: req.Record, Off: req.Off, Len: req.Len,
	}
	if err := s.store.Hung(p.Chunk); err != nil { // it would wait, and keep others from being read
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	weight := int64(p.BufBytes())
	if err := s.reading.Acquire(ctx, weight); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	buf := rpc.Alloc(int(weight))
	free := func() {
		rpc.Free(buf)
		s.reading.Release(weight)
	}
	got, err := s.store.Read(p, buf)
	if err != nil {
		free()
		errno, text := verdict(err)
		if dfs.Errno(errno) == dfs.EIO {
			s.doubt(p.Chunk)
		}
		return &chunkpb.ReadReply{Errno: errno, Error: text}, nil
	}
	if !rpc.FreeAfterReply(ctx, free) {
		s.reading.Release(weight) // buf is the garbage collector's
	}
	return &chunkpb.ReadReply{Off: got.Off, Crcs: got.CRCs, Data: got.Data}, nil
}

// Seal ends a chunk.
func (s *Server) Seal(_ context.Context, req *chunkpb.SealRequest) (*chunkpb.SealReply, error) {
	if err := s.check(req.Cluster); err != nil {
		return nil, err
	}
	end, err := s.store.Seal(dfs.ChunkID(req.Chunk))
	errno, _ := verdict(err)
	return &chunkpb.SealReply{Errno: errno, End: end}, nil
}

// Intents lists what the records of a sealed chunk are part of.
func (s *Server) Intents(_ context.Context, req *chunkpb.IntentsRequest) (*chunkpb.IntentsReply, error) {
	if err := s.check(req.Cluster); err != nil {
		return nil, err
	}
	list, err := s.store.Intents(dfs.ChunkID(req.Chunk), req.From)
	if err != nil {
		errno, text := verdict(err)
		return &chunkpb.IntentsReply{Errno: errno, Error: text}, nil
	}
	out := &chunkpb.IntentsReply{Fragment: list.Fragment, Session: uint64(list.Session), End: list.End, Next: list.Next}
	for _, r := range list.Records {
		out.Records = append(out.Records, &chunkpb.IntentsReply_Record{Record: r.Record, RecordLen: r.RecordLen, End: r.End, Intents: r.Intents})
	}
	return out, nil
}

// Stat tells about chunks.
func (s *Server) Stat(_ context.Context, req *chunkpb.StatRequest) (*chunkpb.StatReply, error) {
	if err := s.check(req.Cluster); err != nil {
		return nil, err
	}
	if len(req.Chunks) > statMax {
		return nil, status.Errorf(codes.InvalidArgument, "stat of %d chunks, at most %d at once", len(req.Chunks), statMax)
	}
	out := &chunkpb.StatReply{Chunks: make([]*chunkpb.ChunkInfo, len(req.Chunks))}
	for i, id := range req.Chunks {
		info, ok := s.store.Stat(dfs.ChunkID(id))
		if !ok || info.Damaged {
			out.Chunks[i] = &chunkpb.ChunkInfo{Chunk: id, Missing: true, Disk: info.Dir}
			continue
		}
		out.Chunks[i] = infoToProto(info)
	}
	return out, nil
}

func infoToProto(i chunk.Info) *chunkpb.ChunkInfo {
	return &chunkpb.ChunkInfo{Chunk: uint64(i.Chunk), Fragment: i.Fragment, End: i.End, Sealed: i.Sealed, Disk: i.Dir}
}

// List streams all fragments that can be served.
func (s *Server) List(req *chunkpb.ListRequest, out grpc.ServerStreamingServer[chunkpb.ListReply]) error {
	if err := s.check(req.Cluster); err != nil {
		return err
	}
	var err error
	page := make([]*chunkpb.ChunkInfo, 0, listPage)
	s.store.List(func(i chunk.Info) bool {
		if !i.Damaged {
			page = append(page, infoToProto(i))
		}
		if len(page) == listPage {
			err = out.Send(&chunkpb.ListReply{Chunks: page})
			page = make([]*chunkpb.ChunkInfo, 0, listPage) // gRPC may still read the old one
		}
		return err == nil
	})
	if err == nil && len(page) > 0 {
		err = out.Send(&chunkpb.ListReply{Chunks: page})
	}
	return err
}

// Ping answers when the server and its disks can work.
func (s *Server) Ping(_ context.Context, req *chunkpb.PingRequest) (*chunkpb.PingReply, error) {
	if err := s.check(req.Cluster); err != nil {
		return nil, err
	}
	if err := s.store.Check(); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	total, free := s.store.Usage()
	return &chunkpb.PingReply{Server: uint64(s.store.Node()), TotalBytes: total, FreeBytes: free, Version: s.cfg.Version}, nil
}
