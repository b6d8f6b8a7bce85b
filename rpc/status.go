package rpc

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/proto/metapb"
)

// NotLeader is the failure of a master that does not lead: ask the one that does.
// leader and addr are zero when it does not know.
func NotLeader(leader dfs.NodeID, addr string) error {
	text := "this master does not lead"
	if addr != "" {
		text += "; " + addr + " does"
	}
	s, err := status.New(codes.FailedPrecondition, text).WithDetails(&metapb.NotLeader{Leader: uint64(leader), LeaderAddr: addr})
	if err != nil { // only when the detail cannot be encoded
		return status.Error(codes.Internal, err.Error())
	}
	return s.Err()
}

// IsNotLeader reports whether err is NotLeader from another master, and whom it
// believes to lead (zero and empty when it does not know).
func IsNotLeader(err error) (leader dfs.NodeID, addr string, ok bool) {
	s, found := status.FromError(err)
	if !found || s.Code() != codes.FailedPrecondition {
		return 0, "", false
	}
	for _, d := range s.Details() {
		if n, ok := d.(*metapb.NotLeader); ok {
			return dfs.NodeID(n.Leader), n.LeaderAddr, true
		}
	}
	return 0, "", false
}

// Errno turns the errno field of a reply to an error: nil for 0.
func Errno(code uint32) error { return dfs.Errno(code).Err() }

// IsVerdict reports whether err is or wraps a verdict: an answer, not a failure.
func IsVerdict(err error) bool {
	var e dfs.Errno
	return errors.As(err, &e)
}

// Unavailable is the failure that tells the caller to try again, here or elsewhere.
func Unavailable(format string, args ...any) error {
	return status.Error(codes.Unavailable, fmt.Sprintf(format, args...))
}

// Retryable reports whether the same request may succeed when it is sent again, to
// this peer or another: the connection broke, the peer is starting or stopping or
// does not lead, or the time of one try ran out. Verdicts and all else are final.
func Retryable(err error) bool {
	if err == nil || IsVerdict(err) {
		return false
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	if _, _, ok := IsNotLeader(err); ok {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
		return true
	}
	return false
}
