#include "layers/tar.h"

#include <doctest/doctest.h>

#include <cstring>


using namespace lamina;
using namespace lamina::layers;

namespace {

Entry file(const std::string& path, const std::string& content) {
  Entry e;
  e.path = path;
  e.mode = 0644;
  e.size = content.size();
  e.bytes = std::make_shared<const std::string>(content);
  return e;
}

std::string tar_of(const EntryList& entries, std::optional<int64_t> clamp = {}) {
  StringSink sink;
  TarWriter writer(sink, clamp);
  for (const Entry& e : entries) REQUIRE(writer.add(e));
  REQUIRE(writer.finish());
  return sink.text;
}

// A ustar header by hand, for what our writer would never write.
std::string header(const std::string& name, char type, const std::string& link = {}, const std::string& size = "00000000000") {
  std::string h(512, '\0');
  h.replace(0, name.size(), name);
  h.replace(100, 7, "0000644");
  h.replace(108, 7, "0000000");
  h.replace(116, 7, "0000000");
  h.replace(124, size.size(), size);
  h.replace(136, 11, "00000000000");
  h[156] = type;
  h.replace(157, link.size(), link);
  h.replace(257, 8, std::string("ustar\00000", 8));
  h.replace(148, 8, "        ");
  unsigned sum = 0;
  for (const char c : h) sum += static_cast<unsigned char>(c);
  char text[8];
  std::snprintf(text, sizeof text, "%06o", sum);
  h.replace(148, 7, std::string(text, 7));
  return h;
}

Result<EntryList> read_all(const std::string& tar, std::vector<std::string>* contents = nullptr) {
  StringSource source(tar);
  TarReader reader(source);
  EntryList out;
  while (true) {
    ASSIGN_OR_RETURN(std::optional<Entry> e, reader.next());
    if (!e) return out;
    if (contents != nullptr) {
      ASSIGN_OR_RETURN(std::string text, read_to_string(reader.content(), 1 << 20));
      contents->push_back(std::move(text));
    }
    out.push_back(std::move(*e));
  }
}

}  // namespace

TEST_CASE("what is written is read back") {
  EntryList entries;
  Entry dir;
  dir.path = "d";
  dir.type = EntryType::kDirectory;
  dir.mode = 01777;
  dir.mtime = {1700000000, 5};
  entries.push_back(dir);
  entries.push_back(file("d/" + std::string(200, 'n') + "/ünïcode", "content"));
  Entry link = file("d/z", "");
  link.type = EntryType::kSymlink;
  link.link_target = std::string(300, 't');
  entries.push_back(link);
  Entry big = file("e", "x");
  big.uid = 4000000000u;
  big.xattrs["user.a"] = std::string("\0\n=", 3);
  entries.push_back(big);
  Entry device = file("f", "");
  device.type = EntryType::kCharDevice;
  device.dev_major = 1;
  device.dev_minor = 3;
  entries.push_back(device);
  Entry gone = file("gone", "");
  gone.type = EntryType::kWhiteout;
  entries.push_back(gone);

  std::vector<std::string> contents;
  const auto read = read_all(tar_of(entries), &contents);
  REQUIRE(read);
  REQUIRE(read->size() == entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    CAPTURE(entries[i].path);
    CHECK((*read)[i].path == entries[i].path);
    CHECK((*read)[i].type == entries[i].type);
    const bool has_mode = entries[i].type != EntryType::kWhiteout && entries[i].type != EntryType::kSymlink;
    if (has_mode) CHECK((*read)[i].mode == entries[i].mode);
    CHECK((*read)[i].uid == entries[i].uid);
    CHECK((*read)[i].link_target == entries[i].link_target);
    CHECK((*read)[i].xattrs == entries[i].xattrs);
    CHECK((*read)[i].dev_minor == entries[i].dev_minor);
  }
  CHECK(contents[1] == "content");
  CHECK((*read)[0].mtime == Timestamp{1700000000, 0});  // whole seconds
}

TEST_CASE("the bytes depend on the entries alone, and times are clamped") {
  Entry e = file("a", "1");
  e.mtime = {2000000000, 0};
  CHECK(tar_of({e}) == tar_of({e}));
  CHECK(read_all(tar_of({e}, 1700000000))->at(0).mtime.seconds == 1700000000);
  e.mtime = {1600000000, 0};
  CHECK(read_all(tar_of({e}, 1700000000))->at(0).mtime.seconds == 1600000000);
}

TEST_CASE("a file that changed while it was read is an error") {
  StringSink sink;
  for (const char* content : {"shorter", "longer than it was said to be"}) {
    TarWriter writer(sink, {});
    Entry e = file("a", "ten bytes!");
    StringSource source(content);
    const auto result = writer.add(e, &source);
    REQUIRE_FALSE(result);
    CHECK(result.error().kind() == ErrorKind::kCorrupt);
  }
}

TEST_CASE("hostile archives are refused or made harmless") {
  const std::string end(1024, '\0');
  for (const char* name : {"../x", "a/../../x", "/../x"}) {
    CAPTURE(name);
    const auto read = read_all(header(name, '0') + end);
    if (read) {
      for (const Entry& e : *read) CHECK(e.path.find("..") == std::string::npos);
    } else {
      CHECK(read.error().kind() == ErrorKind::kCorrupt);
    }
  }
  CHECK(read_all(header("/abs/x", '0') + end)->at(0).path == "abs/x");
  CHECK(read_all(header("./a//b", '0') + end)->at(0).path == "a/b");
  std::string damaged = header("x", '0') + end;
  damaged[0] ^= 1;
  CHECK_FALSE(read_all(damaged));
  // A pax header and a long name that claim gigabytes.
  for (const char type : {'x', 'L', 'K', 'g'}) CHECK_FALSE(read_all(header("p", type, "", "77777777777") + end));
  // Truncated in a header, in content.
  CHECK_FALSE(read_all(header("x", '0').substr(0, 300)));
  CHECK_FALSE(read_all(header("x", '0', "", "00000001000") + "short"));
}

TEST_CASE("no input makes the reader crash") {
  const std::string good = tar_of({file("a/b", "content"), file("c", std::string(2000, 'x'))});
  unsigned state = 1;
  for (int round = 0; round < 3000; ++round) {
    std::string bad = good;
    for (int flips = 0; flips < 4; ++flips) {
      state = state * 1664525 + 1013904223;
      bad[state % bad.size()] = static_cast<char>(state >> 24);
    }
    if (round % 3 == 0) bad.resize(state % bad.size());
    std::vector<std::string> contents;
    const auto read = read_all(bad, &contents);
    if (!read) CHECK(read.error().kind() == ErrorKind::kCorrupt);
  }
}
