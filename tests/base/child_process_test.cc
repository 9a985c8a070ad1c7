#include "base/child_process.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <thread>

#include "base/files.h"
#include "base/text.h"

using namespace lamina;

namespace {

SpawnOptions shell(const std::string& script) {
  SpawnOptions options;
  options.argv = {"sh", "-c", script};
  return options;
}

std::string output_of(const SpawnOptions& options, std::string_view input = {}) {
  auto text = run_and_capture(options, input);
  return text ? *text : "failed: " + text.error().render();
}

}  // namespace

TEST_CASE("exit status and signal come back exactly") {
  auto code = ChildProcess::spawn(shell("exit 42"));
  REQUIRE(code);
  CHECK(code->pid() > 0);
  auto status = code->wait();
  REQUIRE(status);
  CHECK(status->code == 42);
  CHECK(status->signal == 0);
  CHECK(status->shell_code() == 42);
  CHECK_FALSE(code->wait().has_value());

  auto killed = ChildProcess::spawn(shell("kill -TERM $$"));
  REQUIRE(killed);
  status = killed->wait();
  REQUIRE(status);
  CHECK(status->signal == SIGTERM);
  CHECK(status->shell_code() == 128 + SIGTERM);
}

TEST_CASE("a program that does not exist is kNotFound") {
  SpawnOptions options;
  options.argv = {"no-such-program-anywhere"};
  auto child = ChildProcess::spawn(options);
  REQUIRE_FALSE(child);
  CHECK(child.error().kind() == ErrorKind::kNotFound);
  CHECK(child.error().message() == "program \"no-such-program-anywhere\" was not found in PATH");

  options.argv = {"/no/such/program"};
  child = ChildProcess::spawn(options);
  REQUIRE_FALSE(child);
  CHECK(child.error().message() ==
        "execve \"/no/such/program\": ENOENT (No such file or directory)");

  options.argv = {"/etc"};
  child = ChildProcess::spawn(options);
  REQUIRE_FALSE(child);
  CHECK(child.error().kind() == ErrorKind::kDenied);

  options.argv.clear();
  CHECK_FALSE(ChildProcess::spawn(options).has_value());
}

TEST_CASE("a missing working directory is told") {
  SpawnOptions options = shell("true");
  options.working_directory = "/no/such/directory";
  auto child = ChildProcess::spawn(options);
  REQUIRE_FALSE(child);
  CHECK(child.error().render() ==
        "error: chdir \"/no/such/directory\": ENOENT (No such file or directory)\n"
        "  while starting sh");
}

TEST_CASE("output, input, environment and working directory") {
  CHECK(output_of(shell("printf hello")) == "hello");
  const std::string big(300000, 'x');
  CHECK(output_of(shell("cat"), big) == big);
  CHECK(output_of(shell("cat")) == "");
  SpawnOptions options = shell("echo $A-$HOME; pwd");
  options.environment = {"A=1"};
  options.working_directory = "/usr";
  CHECK(output_of(options) == "1-\n/usr\n");
}

TEST_CASE("executable names the program, argv[0] what it is called") {
  SpawnOptions options;
  options.argv = {"other-name", "-c", "echo $0"};
  options.executable = "/bin/sh";
  CHECK(output_of(options) == "other-name\n");
}

TEST_CASE("run_and_capture reports status and standard error") {
  auto text = run_and_capture(shell("echo lost; echo broken >&2; exit 3"));
  REQUIRE_FALSE(text);
  CHECK(text.error().kind() == ErrorKind::kStepFailed);
  CHECK(text.error().exit_status() == 3);
  CHECK(text.error().message() == "\"sh\" ended with exit status 3: broken");
  text = run_and_capture(shell("kill -KILL $$"));
  REQUIRE_FALSE(text);
  CHECK(text.error().exit_status() == 137);
  CHECK(text.error().message() == "\"sh\" was killed by signal 9");
}

TEST_CASE("run_and_capture does not wait for a daemon left behind") {
  const auto start = std::chrono::steady_clock::now();
  CHECK(output_of(shell("sleep 5 & echo done")) == "done\n");
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(4));
}

TEST_CASE("descriptors may swap places") {
  auto dir = TempDir::create("/tmp", "lamina-test");
  REQUIRE(dir);
  auto a = open_at(AT_FDCWD, dir->path() + "/a", O_RDWR | O_CREAT, 0600);
  auto b = open_at(AT_FDCWD, dir->path() + "/b", O_RDWR | O_CREAT, 0600);
  REQUIRE((a && b));
  const std::string to_a = std::to_string(b->get()), to_b = std::to_string(a->get());
  // sh only takes one digit before a redirection, so the numbers go through /proc.
  SpawnOptions options = shell("echo A >/proc/self/fd/" + to_a + "; echo B >/proc/self/fd/" + to_b);
  options.fds = {{a->get(), b->get()}, {b->get(), a->get()}};
  auto child = ChildProcess::spawn(options);
  REQUIRE(child);
  auto status = child->wait();
  REQUIRE(status);
  CHECK(status->success());
  CHECK(*read_file(AT_FDCWD, dir->path() + "/a") == "A\n");
  CHECK(*read_file(AT_FDCWD, dir->path() + "/b") == "B\n");
}

TEST_CASE("only the descriptors that are given reach the child") {
  const UniqueFd inheritable(
      ::open("/dev/null", O_RDONLY));  // NOLINT: without O_CLOEXEC on purpose
  const UniqueFd given(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  REQUIRE((inheritable && given));
  const auto sees = [&](int fd) {
    const std::string link = "/proc/$$/fd/" + std::to_string(fd);
    SpawnOptions options = shell("if [ -e " + link + " ]; then echo open; fi");
    options.fds = {{given.get(), given.get()}};
    return output_of(options) == "open\n";
  };
  CHECK(sees(0));
  CHECK(sees(given.get()));
  CHECK_FALSE(sees(inheritable.get()));
}

TEST_CASE("a descriptor that is not open is an error") {
  SpawnOptions options = shell("true");
  options.fds = {{987654, 5}};
  auto child = ChildProcess::spawn(options);
  REQUIRE_FALSE(child);
  CHECK(child.error().error_number() == EBADF);
}

TEST_CASE("the child has no blocked or ignored signals of ours") {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto old_handler = ::signal(SIGPIPE, SIG_IGN);
  const std::string text = output_of(shell("grep -E '^Sig(Blk|Ign):' /proc/self/status"));
  ::signal(SIGPIPE, old_handler);
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, &before, &after);
  CHECK(sigismember(&after, SIGTERM) == 1);
  CHECK(text.find("SigBlk:\t0000000000000000\n") != std::string::npos);
  const auto ignored = parse_uint(trim(text.substr(text.find("SigIgn:") + 7)), 16);
  REQUIRE(ignored);
  CHECK((*ignored & (1u << (SIGPIPE - 1))) == 0);
}

TEST_CASE("the destructor kills and reaps") {
  pid_t pid = -1;
  {
    auto child = ChildProcess::spawn(shell("exec sleep 100"));
    REQUIRE(child);
    pid = child->pid();
    ChildProcess moved = *std::move(child);
    CHECK(moved.pid() == pid);
    pollfd polled{moved.pidfd(), POLLIN, 0};
    CHECK(::poll(&polled, 1, 0) == 0);
  }
  CHECK(::kill(pid, 0) == -1);
  CHECK(errno == ESRCH);
}

TEST_CASE("a process group of its own") {
  SpawnOptions options = shell("ps -o pgid= -p $$ 2>/dev/null || cut -d' ' -f5 /proc/$$/stat");
  options.new_process_group = true;
  const auto group = parse_int(trim(output_of(options)));
  REQUIRE(group);
  CHECK(*group != ::getpgrp());
}

TEST_CASE("several threads spawn at once") {
  std::vector<std::thread> threads;
  std::array<int, 4> good{};
  for (int& count : good) {
    threads.emplace_back([&count] {
      for (int i = 0; i < 20; ++i) count += output_of(shell("echo ok")) == "ok\n" ? 1 : 0;
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK(good == std::array<int, 4>{20, 20, 20, 20});
}
