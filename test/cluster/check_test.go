package cluster

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/proto/adminpb"
)

// check runs a check, and answers the findings as they are at its end.
func (c *Cluster) check(req *adminpb.CheckRequest) (findings map[uint32]*adminpb.Finding, last *adminpb.CheckReply) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := c.finder.CallStream(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		findings = map[uint32]*adminpb.Finding{}
		stream, err := adminpb.NewAdminClient(conn).Check(ctx, req)
		if err != nil {
			return err
		}
		for {
			if last, err = stream.Recv(); err != nil {
				return err
			}
			for _, f := range last.Findings {
				findings[f.Id] = f
			}
			if last.Done {
				return nil
			}
		}
	})
	if err != nil {
		c.t.Fatalf("check: %v", err)
	}
	return findings, last
}

// TestCheckFindsWhatIsWrongAndWhoseItIs: and has it repaired.
func TestCheckFindsWhatIsWrongAndWhoseItIs(t *testing.T) {
	c := Start(t, Options{ChunkServers: 3})
	fs := c.dialNow()
	if _, err := fs.MkdirAll(context.Background(), root, "/a", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	files := c.writeSome("a/some")
	_, s := c.find("chunk-3")
	mine := chunkFiles(t, s.dir)
	for name, data := range c.writeSome("other") {
		files[name] = data
	}
	c.whole()
	none := func(req *adminpb.CheckRequest) {
		t.Helper()
		if found, last := c.check(req); len(found) > 0 || last.More || last.Fragments == 0 || last.Chunks*3 != last.Fragments || last.Files == 0 {
			t.Fatalf("%v: findings %v, %v", req, found, last)
		}
	}
	none(&adminpb.CheckRequest{})
	none(&adminpb.CheckRequest{Quick: true})
	none(&adminpb.CheckRequest{Path: "/a/some-1"})
	for _, name := range mine {
		flipAt(t, name, dfs.FirstRecord+20)
	}
	none(&adminpb.CheckRequest{Quick: true}) // it reads nothing
	none(&adminpb.CheckRequest{Path: "/other-1"})
	of := func(req *adminpb.CheckRequest, repaired bool) {
		t.Helper()
		found, _ := c.check(req)
		if len(found) != len(mine) {
			t.Fatalf("%d findings, %d fragments are damaged: %v", len(found), len(mine), found)
		}
		var whose []string
		for _, f := range found {
			if f.Kind != "damaged" || f.Server != "chunk-3" || f.Repaired != repaired {
				t.Errorf("%v", f)
			}
			whose = append(whose, f.Files...)
		}
		slices.Sort(whose)
		whose = slices.Compact(whose)
		if len(whose) != len(repairSizes) || !strings.HasPrefix(whose[0], "/a/some-") {
			t.Errorf("damaged: %v", whose)
		}
	}
	of(&adminpb.CheckRequest{}, false)
	of(&adminpb.CheckRequest{Path: "/a"}, false)
	of(&adminpb.CheckRequest{Repair: true, WaitNanos: int64(30 * time.Second)}, true)
	none(&adminpb.CheckRequest{})
	if _, last := c.check(&adminpb.CheckRequest{Path: "/absent"}); dfs.Errno(last.Errno) != dfs.ENOENT {
		t.Errorf("of an absent file: %v", last)
	}
	c.Kill("chunk-2")
	c.readAll(files)
	found, _ := c.check(&adminpb.CheckRequest{Path: "/a"})
	for _, f := range found {
		if f.Kind != "unreachable" || f.Server != "chunk-2" || len(f.Files) == 0 {
			t.Errorf("%v", f)
		}
	}
	if len(found) != len(mine) {
		t.Errorf("%d findings, want one for each of %d chunks", len(found), len(mine))
	}
}

// chunkFiles are the files of fragments in a server's folder.
func chunkFiles(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "chunks", "*", "*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("files in %s: %v, %v", dir, names, err)
	}
	return names
}
