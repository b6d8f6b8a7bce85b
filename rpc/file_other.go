//go:build !linux

package rpc

import (
	"context"
	"errors"
	"os"
)

// FileServer hands out open files; only on Linux.
type FileServer struct{}

// ServeFiles is not there.
func ServeFiles(string, func([]byte) (*os.File, error)) (*FileServer, error) {
	return nil, errors.ErrUnsupported
}

// Close does nothing.
func (*FileServer) Close() error { return nil }

// OpenFile is not there.
func OpenFile(context.Context, string, []byte) (*os.File, error) { return nil, errors.ErrUnsupported }
