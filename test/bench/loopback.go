package main

import (
	"fmt"
	"os/signal"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// newLoopback mounts what FUSE can do at best with what is asked again and again: the
// local disk behind go-fuse's loopback file system, which lets the kernel keep all that it
// is told for an hour, and never has to take anything back.
func newLoopback() *cobra.Command {
	return &cobra.Command{
		Use:   "loopback FOLDER MOUNTPOINT",
		Short: "Mount FOLDER at MOUNTPOINT with go-fuse's loopback file system, until it is unmounted",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := gofs.NewLoopbackRoot(args[0])
			if err != nil {
				return err
			}
			keep := time.Hour
			server, err := gofs.Mount(args[1], root, &gofs.Options{
				AttrTimeout: &keep, EntryTimeout: &keep, NegativeTimeout: &keep,
				MountOptions: gofuse.MountOptions{FsName: args[0], Name: "loopback", AllowOther: true, MaxWrite: 1 << 20},
			})
			if err != nil {
				return fmt.Errorf("mount %s: %w", args[1], err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT)
			defer stop()
			go func() { // ends with the program
				<-ctx.Done()
				_ = server.Unmount()
			}()
			server.Wait()
			return nil
		},
	}
}
