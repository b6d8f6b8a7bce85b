package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"dfs/internal/cli"
)

// Of filling a folder.
const (
	fillWriters   = 4
	fillPerFolder = 1000 // files in a folder
	fillFilesMax  = 100_000_000
	fillFileBytes = 1 << 30 // of a file, at most
)

func newFill() *cobra.Command {
	files, mib := 1000, 1024
	cmd := &cobra.Command{
		Use:   "fill FOLDER",
		Short: "Write files of bytes that cannot be compressed",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if files < 1 || files > fillFilesMax || mib < 1 || mib<<20/files > fillFileBytes || mib<<20/files < 1 {
				return cli.Usagef("--files=%d --mib=%d: want files of 1 byte to 1 GiB", files, mib)
			}
			return fillFolder(cmd.Context(), args[0], files, mib<<20/files)
		},
	}
	cmd.Flags().IntVar(&files, "files", files, "how many")
	cmd.Flags().IntVar(&mib, "mib", mib, "how many MiB all of them have")
	return cmd
}

func fillFolder(ctx context.Context, folder string, files, size int) error {
	g, ctx := errgroup.WithContext(ctx)
	for w := range fillWriters {
		g.Go(func() error {
			r := rand.NewChaCha8([32]byte{byte(w)})
			data := make([]byte, size)
			for i := w; i < files && ctx.Err() == nil; i += fillWriters {
				_, _ = r.Read(data) // it never fails
				dir := filepath.Join(folder, fmt.Sprint(i/fillPerFolder))
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), data, 0o644); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}
