package docs_test

import (
	"regexp"
	"strings"
)

// page is one Markdown file, cut into what the checks look at.
type page struct {
	path   string // relative to the root of the repository
	prose  []line // without code blocks
	blocks []block
}

// line is a line of prose with its number.
type line struct {
	number int
	text   string
}

// block is a fenced code block.
type block struct {
	number   int // of the line after the fence
	language string
	text     string
}

// parse cuts a page at its fences. Code that is indented rather than fenced stays part of the prose.
func parse(path, text string) page {
	p := page{path: path}
	var open *block
	for i, l := range strings.Split(text, "\n") {
		language, fence := strings.CutPrefix(strings.TrimSpace(l), "```")
		switch {
		case fence && open == nil:
			open = &block{number: i + 2, language: language}
		case fence:
			p.blocks = append(p.blocks, *open)
			open = nil
		case open != nil:
			open.text += l + "\n"
		default:
			p.prose = append(p.prose, line{i + 1, l})
		}
	}
	if open != nil {
		p.blocks = append(p.blocks, *open)
	}
	return p
}

var (
	linkPattern    = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	headingPattern = regexp.MustCompile(`^#+ +(.*)$`)
	dropped        = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// links returns the targets of the links in a text.
func links(text string) []string {
	var targets []string
	for _, m := range linkPattern.FindAllStringSubmatch(text, -1) {
		targets = append(targets, m[1])
	}
	return targets
}

// anchors returns the names by which the headings of a page can be linked to.
func (p page) anchors() map[string]bool {
	all := map[string]bool{}
	for _, l := range p.prose {
		if m := headingPattern.FindStringSubmatch(l.text); m != nil {
			all[strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
		}
	}
	return all
}

// items cuts the prose into paragraphs, list items and rows of tables, each as one text with the number of its first line.
func (p page) items() []line {
	var items []line
	var begins = regexp.MustCompile(`^\s*([0-9]+\.|[-*|]|#+)\s`)
	last := -1
	for _, l := range p.prose {
		switch {
		case strings.TrimSpace(l.text) == "":
			last = -1
		case last < 0 || begins.MatchString(l.text) || strings.HasPrefix(l.text, "|"):
			items = append(items, l)
			last = len(items) - 1
		default:
			items[last].text += " " + strings.TrimSpace(l.text)
		}
	}
	return items
}

// statements turns Go code into the lines that are compared: without indentation, comments, empty lines, and the commas
// that end an element of a list.
func statements(code string) []string {
	var out []string
	for l := range strings.Lines(code) {
		l, _, _ = strings.Cut(strings.TrimSpace(l), "// ")
		l = strings.TrimSuffix(strings.Join(strings.Fields(l), " "), ",")
		if l != "" && !strings.HasPrefix(l, "//") && !strings.HasPrefix(l, "package ") {
			out = append(out, l)
		}
	}
	return out
}

// contains reports whether part is a run of lines of whole.
func contains(whole, part []string) bool {
	return strings.Contains("\n"+strings.Join(whole, "\n")+"\n", "\n"+strings.Join(part, "\n")+"\n")
}
