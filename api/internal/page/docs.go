package page

func (p *Pages) renderDocs() ([]byte, error) { return nil, nil }
