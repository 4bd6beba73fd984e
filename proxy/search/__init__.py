"""Search trees and the policies that grow them: pure, they know neither models nor prompts."""
