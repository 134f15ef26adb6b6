package api

// Routes lists method and path of every route of the server, for the test
// that holds them against the contract.
func (s *Service) Routes() [][2]string {
	var all [][2]string
	for _, r := range s.server.Echo().Routes() {
		all = append(all, [2]string{r.Method, r.Path})
	}
	return all
}
