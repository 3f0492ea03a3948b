// arguments.hpp: what every program that measures is told, and the file that it writes.
#pragma once

#include <CLI/CLI.hpp>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "turns.hpp"

class arguments
{
  public:
	explicit arguments(CLI::App &options)
	{
		options.add_option("--about", about_, "NAME TEXT for the results");
		options.add_option("--seconds", seconds_, "how long each turn takes");
		options.add_option("--rounds", rounds_, "how many turns each of them has");
		options.add_option("--output", output_, "the results, a file in JSON")->required();
	}

	[[nodiscard]] ::turns
	turns() const
	{
		return {std::chrono::duration<double>(seconds_), rounds_};
	}

	void
	write(const nlohmann::json &rows) const
	{
		nlohmann::json results{{"about", about_},
							   {"seconds", seconds_},
							   {"rounds", rounds_},
							   {"rows", rows}};

		std::ofstream(output_) << results.dump(1, '\t') << '\n';
	}

  private:
	std::map<std::string, std::string> about_;
	double seconds_ = 0.5;
	int rounds_ = 5;
	std::string output_;
};
