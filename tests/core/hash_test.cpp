// SHA-256 against the examples of FIPS 180-4.
#include "moesweep/core/hash.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "moesweep/core/error.hpp"
#include "support/scratch.hpp"

namespace moesweep {

TEST(Hash, StandardsExamples) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Hash, PiecesAndFilesGiveTheSame) {
  EXPECT_EQ(Sha256().add("a").add("").add("bc").hex(), sha256_hex("abc"));
  const testing_support::Scratch scratch("moesweep-hash");
  const auto path = scratch.path() / "text";
  const std::string text((1 << 20) + 12345, 'x');  // longer than the reading buffer
  std::ofstream(path, std::ios::binary) << text;
  EXPECT_EQ(sha256_of_file(path), sha256_hex(text));
  std::filesystem::remove(path);
  EXPECT_THROW(sha256_of_file(path), Error);
}

}  // namespace moesweep
