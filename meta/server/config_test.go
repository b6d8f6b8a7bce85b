package server

import (
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs/proto/adminpb"
)

func TestSettingHoldsUntilItIsTakenBack(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	set := func(name, value string) error {
		_, err := s.SetConfig(t.Context(), &adminpb.SetConfigRequest{Name: name, Value: value})
		return err
	}
	get := func() *adminpb.Setting {
		r, err := s.Config(t.Context(), &adminpb.ConfigRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Settings[slices.IndexFunc(r.Settings, func(x *adminpb.Setting) bool { return x.Name == "repair-after" })]
	}
	goes := func(want time.Duration) {
		t.Helper()
		eventually(t, "the setting to hold", func() error {
			if got := s.duration("repair-after", s.cfg.RepairAfter); got != want {
				return errors.New(got.String())
			}
			return nil
		})
	}
	if err := set("repair-after", "77s"); err != nil {
		t.Fatal(err)
	}
	if x := get(); !x.Set || x.Value != "77s" {
		t.Errorf("%v", x)
	}
	goes(77 * time.Second)
	if err := set("repair-after", ""); err != nil {
		t.Fatal(err)
	}
	if x := get(); x.Set || x.Value != x.Default {
		t.Errorf("%v", x)
	}
	goes(DefaultRepairAfter)
	if err := set("no such", "1"); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	if err := set("repair-after", "soon"); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
}
