package server

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/meta"
	"dfs/proto/adminpb"
)

// duration is a setting of the cluster that is one; own holds while it is not set.
func (s *Server) duration(name string, own time.Duration) time.Duration {
	return time.Duration(s.mapNow().Setting(name, int64(own)))
}

// Config lists the settings of the cluster.
func (s *Server) Config(ctx context.Context, _ *adminpb.ConfigRequest) (*adminpb.ConfigReply, error) {
	var set map[string]string
	if err := s.read(ctx, func(v meta.View) (err error) { set, err = v.Config(); return err }); err != nil {
		return nil, err
	}
	out := &adminpb.ConfigReply{}
	for _, x := range dfs.Settings {
		value, is := set[x.Name]
		if !is {
			value = x.Default
		}
		out.Settings = append(out.Settings, &adminpb.Setting{Name: x.Name, Kind: x.Kind.String(), Value: value, Default: x.Default, Set: is, Text: x.Text})
	}
	return out, nil
}

// SetConfig sets a setting of the cluster, or lets it have its default again.
func (s *Server) SetConfig(ctx context.Context, req *adminpb.SetConfigRequest) (*adminpb.SetConfigReply, error) {
	if s.leading.Load() == nil {
		return nil, s.notReady()
	}
	x := dfs.FindSetting(req.Name)
	if x == nil {
		return nil, status.Errorf(codes.NotFound, "no setting is named %.64q: see dfs config list", req.Name)
	}
	if req.Value != "" {
		if _, err := x.Parse(req.Value); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	r, err := s.propose(ctx, &meta.SetConfig{Name: req.Name, Value: req.Value})
	if err == nil && r.Errno != dfs.OK {
		err = r.Errno
	}
	return &adminpb.SetConfigReply{}, s.failure(err)
}
