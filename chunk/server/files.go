package server

import (
	"os"

	"dfs/rpc"
)

// serveFiles hands out fragment files to clients on this machine, which then read
// them themselves: see client/direct.go. Where that does not work they ask for each
// read, so a failure is no error.
func (s *Server) serveFiles() {
	if s.cfg.FS != nil || s.cfg.Dialer != nil {
		return // a disk or a network in memory
	}
	files, err := rpc.ServeFiles(rpc.FragmentFiles(s.store.Cluster(), s.store.Node()), s.openFile)
	if err != nil {
		s.logger.Info("clients on this machine read through the network", "err", err)
		return
	}
	s.files = files
}

func (s *Server) openFile(key []byte) (*os.File, error) {
	id, fragment, err := rpc.ParseFragmentKey(key)
	if err != nil {
		return nil, err
	}
	path, err := s.store.Path(id, fragment)
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}
