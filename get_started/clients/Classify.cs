// Ask the API for the class of a picture: dotnet run Classify.cs MODEL PICTURE. Needs .NET 10 or newer.
// Not run by the tests of this project: .NET is not in Debian.
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json;

string Read(string name, string otherwise = "") => Environment.GetEnvironmentVariable(name) ?? otherwise;
var address = $"{Read("CLASSIFY_URL", "http://127.0.0.1:8080")}/predictions/{args[0]}";
var login = Convert.ToBase64String(Encoding.UTF8.GetBytes($"{Read("CLASSIFY_USER")}:{Read("CLASSIFY_PASSWORD")}"));
using var client = new HttpClient();
client.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Basic", login);
for (var attempt = 0; attempt < 30; attempt++)
{
    using var body = new ByteArrayContent(await File.ReadAllBytesAsync(args[1]));
    using var response = await client.PutAsync(address, body);
    var status = (int)response.StatusCode;
    if (status == 503)
    {
        await Task.Delay(response.Headers.RetryAfter?.Delta ?? TimeSpan.FromSeconds(1));
        continue;
    }
    using var answer = JsonDocument.Parse(await response.Content.ReadAsStringAsync());
    string Find(string key) => answer.RootElement.TryGetProperty(key, out var value) ? value.ToString() : "unknown";
    if (status != 200)
    {
        // 401: wrong user or password; 422: the picture is broken, or not of the model's kind
        Console.Error.WriteLine($"{status}: {Find("message")}");
        return 1;
    }
    Console.WriteLine(string.Join(" ", new[] { "class", "score", "threshold", "cannot_tell" }.Select(key => $"{key}={Find(key)}")));
    return 0;
}
Console.Error.WriteLine("503: the server is busy");
return 1;
