package server

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/proto/chunkpb"
	"dfs/rpc"
)

// Leave has the server refuse all requests for a while, as if it were gone. It is back by itself,
// whatever becomes of who asked.
func (s *Server) Leave(_ context.Context, req *chunkpb.LeaveRequest) (*chunkpb.LeaveReply, error) {
	if own := s.store.Cluster(); dfs.ClusterID(req.Cluster) != own {
		return nil, status.Errorf(codes.FailedPrecondition, "wrong cluster: the request is of cluster %s, this server is of cluster %s", dfs.ClusterID(req.Cluster), own)
	}
	d := time.Duration(req.Nanos)
	if d < 0 || d > dfs.DrillMax {
		return nil, status.Errorf(codes.InvalidArgument, "away for %v: at most %v", d, dfs.DrillMax)
	}
	s.logger.Warn("a drill takes this server away", "for", d)
	s.away.Store(time.Now().Add(d).UnixNano())
	return &chunkpb.LeaveReply{}, nil
}

// gone is the answer to all requests while the server is taken away; nil else.
func (s *Server) gone() error {
	if until := s.away.Load(); until != 0 && time.Now().UnixNano() < until {
		return rpc.Unavailable("a drill has taken this server away")
	}
	return nil
}
