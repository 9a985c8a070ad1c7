#include "registry/internal/answer_words.h"

#include <algorithm>
#include <vector>

#include "base/json.h"
#include "base/text.h"

namespace lamina::registry::internal {

namespace {

constexpr size_t kLongestLine = 120;

std::string words_of_json(const json::Json& answer) {
  const auto errors = json::get_array(answer, "errors");
  if (!errors || *errors == nullptr) return {};
  std::vector<std::string> words;
  for (const json::Json& e : **errors) {
    if (!e.is_object()) continue;
    const auto code = json::get_string(e, "code");
    const auto message = json::get_string(e, "message");
    std::string text = code ? code->value_or("") : "";
    if (message && *message && !(*message)->empty()) text += (text.empty() ? "" : ": ") + **message;
    if (!text.empty()) words.push_back(text);
  }
  return join(words, "; ");
}

// What stands between <name …> and </name>; nothing when there is no such element.
std::string_view element(std::string_view page, std::string_view lower, const std::string& name) {
  size_t begin = lower.find("<" + name);
  begin = begin == std::string_view::npos ? begin : lower.find('>', begin);
  const size_t end = begin == std::string_view::npos ? begin : lower.find("</" + name, begin);
  return end == std::string_view::npos ? std::string_view() : page.substr(begin + 1, end - begin - 1);
}

std::string without_tags(std::string_view page) {
  std::string out;
  bool inside = false;
  for (const char c : page) {
    if (c == '<' || c == '>') {
      inside = c == '<';
      out += ' ';
    } else if (!inside) {
      out += c;
    }
  }
  return out;
}

// The title; of a page without one what it shows.
std::string text_of_page(std::string_view page) {
  const std::string lower = to_lower(page);
  for (const char* name : {"title", "h1", "body"}) {
    std::string text = without_tags(element(page, lower, name));
    if (!trim(text).empty()) return text;
  }
  return without_tags(page);
}

std::string one_line(std::string_view text) {
  std::string line;
  bool blank = false;
  for (const char c : text) {
    const bool white = c == ' ' || (c >= '\t' && c <= '\r');
    if (!white) line += blank && !line.empty() ? std::string(" ") + c : std::string(1, c);
    blank = white || (blank && line.empty());
    if (line.size() > kLongestLine) break;
  }
  if (line.size() <= kLongestLine) return line;
  // Not in the middle of a character (RFC 3629: continuation bytes are 10xxxxxx).
  size_t end = kLongestLine;
  while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xc0) == 0x80) --end;
  return line.substr(0, end) + "…";
}

}  // namespace

std::string words_of_answer(std::string_view content_type, std::string_view body) {
  const std::string_view start = trim(body.substr(0, 4096));
  if (start.empty()) return {};
  if (start.front() == '{') {
    const auto parsed = json::parse_object(body, "the answer");
    if (const std::string words = parsed ? words_of_json(*parsed) : std::string(); !words.empty()) return printable(words);
  }
  const std::string type = to_lower(content_type);
  if (type.find("html") != std::string::npos || type.find("xml") != std::string::npos || start.front() == '<') return printable(one_line(text_of_page(body)));
  const bool text = type.empty() || type.compare(0, 5, "text/") == 0 || type.find("json") != std::string::npos;
  return text ? printable(one_line(body)) : std::string();
}

}  // namespace lamina::registry::internal
